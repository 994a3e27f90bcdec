"""As many scores for each position as the model knows tokens are the scores of the next token, however few these are."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from tests.conftest import node, normal
from tests.toolkit.evaluation.observation.test_position_mask import WIDTH, WORDS, observed, sentences, tagger
from toolkit import Model
from toolkit.evaluation.guessing.guess import guess
from toolkit.evaluation.observation.observed import SeenModel
from toolkit.evaluation.observation.vocabularies import vocabularies


def test_the_tables_that_inputs_are_looked_up_in_are_counted():
    assert vocabularies(Model.from_proto(tagger())) == {"ids": {WORDS}, "kinds": {2}}


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


KINDS = 20


def with_kinds(scores, rows=KINDS, second=None):
    """The tagger with a second table, of so many kinds of words, and one output of scores or two."""
    proto = tagger(head=("MatMul", scores))
    (table,) = (one for one in proto.graph.initializer if one.name == "segments")
    table.CopyFrom(numpy_helper.from_array(normal(rows, WIDTH, seed=2), "segments"))
    if second is not None:
        proto.graph.initializer.append(numpy_helper.from_array(normal(WIDTH, second, seed=9), "h2"))
        proto.graph.node.append(node("MatMul", ["state", "h2"], ["logits2"]))
        proto.graph.output.append(
            helper.make_tensor_value_info("logits2", TensorProto.FLOAT, ["batch", "length", second])
        )
    return proto


def told(proto, kinds):
    given, _ = sentences(8)
    return guess(observed(proto, given | {"kinds": kinds(given["kinds"].shape)}))


def drawn(rows):
    return lambda shape: np.random.default_rng(3).integers(0, rows, shape)


def counted(shape):
    return np.tile(np.arange(shape[1]), (shape[0], 1))


def counted_and_padded(shape):
    """As RoBERTa counts: from 2 on, and 1 where there is nothing."""
    return np.where(np.arange(shape[1]) < 8, np.arange(shape[1]) + 2, 1)[None].repeat(shape[0], 0)


@pytest.mark.parametrize(
    ("proto", "kinds", "tasks"),
    [
        # as many tags as kinds of words, which stand beside the words
        (with_kinds(KINDS), drawn(KINDS), ["sequence"]),
        (with_kinds(WORDS), drawn(KINDS), ["generation"]),
        # words and kinds are told together
        (with_kinds(WORDS, second=KINDS), drawn(KINDS), ["generation", "generation"]),
        (with_kinds(KINDS, second=WORDS), drawn(KINDS), ["generation", "generation"]),
        # a table of positions that is longer than that of the characters
        (with_kinds(WORDS, rows=60), counted, ["generation"]),
        (with_kinds(WORDS, rows=60), counted_and_padded, ["generation"]),
        (with_kinds(60, rows=60), counted, ["sequence"]),
    ],
    ids=["tags", "words", "both", "both, kinds first", "positions", "padded positions", "as many as positions"],
)
def test_as_many_tags_as_a_second_table_has_rows_are_no_tokens(proto, kinds, tasks):
    assert [part.task for part in told(proto, kinds).parts] == tasks


def test_tokens_of_another_length_are_those_that_a_decoder_tells():
    """A translation: the input of as many tokens as there are scores is not as long as the other, which knows more."""
    source, target = np.zeros(9, np.int64), np.zeros(5, np.int64)
    known = {"source": frozenset({WORDS}), "target": frozenset({KINDS})}
    seen = SeenModel([], {"source": source, "target": target}, frozenset(), known=known)
    assert seen.is_vocabulary(KINDS) and seen.is_vocabulary(WORDS) and not seen.is_vocabulary(17)
    same = SeenModel([], {"source": source, "target": source}, frozenset(), known=known)
    assert same.is_vocabulary(WORDS) and not same.is_vocabulary(KINDS)


def test_the_position_of_a_single_token_does_not_count_as_a_token():
    """A step of a decoder with a past reads one token and its position; a table of positions may be the longer one."""
    known = {"ids": frozenset({WORDS}), "positions": frozenset({20 * WORDS})}
    step = SeenModel([], {"ids": np.array([5]), "positions": np.array([7])}, frozenset(), known=known)
    assert step.is_vocabulary(WORDS) and not step.is_vocabulary(17)
