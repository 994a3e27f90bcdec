"""As many scores for each position as the model knows tokens are the scores of the next token, however few these are."""

from __future__ import annotations

import pytest

from tests.toolkit.evaluation.observation.test_position_mask import WORDS, observed, sentences, tagger
from toolkit import Model
from toolkit.evaluation.guessing.guess import guess
from toolkit.evaluation.observation.vocabularies import vocabularies


def test_the_tables_that_inputs_are_looked_up_in_are_counted():
    assert vocabularies(Model.from_proto(tagger())) == {WORDS, 2}


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("name", ["logits", "output"])
@pytest.mark.parametrize(
    ("scores", "task"), [(WORDS, "generation"), (WORDS + 1, "sequence"), (17, "sequence"), (2, "sequence")]
)
def test_a_model_of_a_few_characters_generates_and_a_tagger_does_not(scores, task, name, causal):
    proto = tagger(causal=causal, head=("MatMul", scores))
    proto.graph.node[-1].output[0] = proto.graph.output[0].name = name
    found = guess(observed(proto, sentences(8)[0]))
    assert (found.task, found.sure, [part.task for part in found.parts]) == (task, True, [task])
