#!/usr/bin/env bash
# On the GPU host. First, one call for each part of gpu_pack.sh, with that folder in carry, in one go (the host goes back 30
# seconds after a call ends, and what was on it is lost):
#     mkdir -p /tmp/gpu && mv .gpu/1/* /tmp/gpu/
# (wait for the first one's answer before the others are sent: where no machine was lent, that part is lost)
# then, with .gpu/last in carry, the set-up and the start in one call, and calls that wait and bring the results back:
#     mv .gpu/last/* /tmp/gpu/ && s="bash tests/benchmarks/gpu_session.sh" && $s start engines trained:explicit && $s start device
#     bash tests/benchmarks/gpu_session.sh wait 300
# What to start: engines, unet, trained:explicit, trained:implicit, calibrators, device[:TESTS], faster[:TESTS], bisect, open,
# guard, loops, builds:MODEL[:LEVEL,...] (digits and strip too), calibration, residual, shift, plugins, migrate[:digits|:strip|:resnet18|:resnet50-b32 ...],
# run:FOLDER[:SECONDS] (a whole `qtool run`, of what bench_recogniser prepares in .gpu/carried/FOLDER before gpu_pack.sh),
# ray:MODEL[:LEVEL] (a kind with several GPUs, all of them or RAY_CARDS=0,1; ray.tar.xz of `gpu_pack.sh`'s last lines is sent like a part),
# placement:MODEL[:ROW,ROW...[:LEVEL[:BATCH,BATCH...[:kernels]]]].
# The jobs of one start run one after the other on the GPU that CUDA_VISIBLE_DEVICES names, in the background, so that a
# call's end does not end them; several starts run side by side. In placement TensorRT times each kernel eight times,
# or AVERAGE times.
# A fixed time to wait, and a process that is waited for by its number, never by a pattern that also fits the waiting shell:
# that mistake once cost a session's whole device time. Ask for several waits in one go: between two calls are 30 seconds.
# Wait with this script and never with a bare sleep: a part can get lost on its way, then nothing was started, and calls
# that sleep all the same cost a whole session's device time too. Here the first wait ends at once and names the part.
set -u
action=$1; shift
if [ ! -f /tmp/gpu/env.sh ]; then
  while read -r part; do
    [ -f "/tmp/gpu/$part" ] || { echo "$part is not here: send its folder of .gpu again, then this call"; exit 1; }
  done < /tmp/gpu/parts
  bash /tmp/gpu/unpack.sh
  mkdir -p /tmp/repo /tmp/results && tar -xzf /tmp/gpu/repo.tgz -C /tmp/repo
fi
cd /tmp/repo
[ "$action" != jobs ] || for name in "$@"; do echo $$ > "/tmp/results/$name.pid"; done
. tests/benchmarks/gpu_env.sh
if [ ! -d /tmp/models ] && [ -d /tmp/gpu/carried ]; then
  python3.10 -m tests.benchmarks.carry fill /tmp/gpu/carried /tmp/models
  cp models/digits_cnn.onnx /tmp/models/digits.onnx && cp models/digits_calibration.npz /tmp/models/digits.npz
  cp models/strip_reader.onnx /tmp/models/strip.onnx && cp models/strip_calibration.npz /tmp/models/strip.npz
fi
backends=tests/toolkit/backends
tests() { python3.10 -m pytest -o addopts= -q -m gpu -p no:cacheprovider --no-header --tb=short --durations=0 -s "$@"; }
job() {
  case $1 in
    engines) tests $backends/test_tensorrt_gpu.py -k "not trained and not calibrator" ;;
    unet) tests $backends/test_tensorrt_gpu.py -k unet ;;
    trained:*) tests $backends/test_tensorrt_gpu.py -k "trained and ${1#*:}" ;;
    calibrators) tests $backends/test_tensorrt_gpu.py -k calibrator ;;
    plugins) tests tests/toolkit/run/test_plugins_gpu.py ;;
    migrate) tests tests/toolkit/run/migrate/test_migrate_gpu.py ;;
    migrate:*) tests tests/toolkit/run/migrate/test_migrate_gpu.py -k "${1#*:}" ;;
    device) tests tests/toolkit/run/steps/test_device_gpu.py ;;
    device:*) tests tests/toolkit/run/steps/test_device_gpu.py -k "${1#*:}" ;;
    faster) tests $backends/test_faster_gpu.py -k "not opening" ;;
    faster:*) tests $backends/test_faster_gpu.py -k "${1#*:}" ;;
    open) tests $backends/test_faster_gpu.py -k opening ;;
    guard) tests $backends/test_faster_gpu.py -k "no_recipe" ;;
    builds:*)
      IFS=: read -r _ model levels <<< "$1"
      python3.10 tests/benchmarks/bench_builds.py /tmp/models "$model" ${levels:+"$levels"} ;;
    bisect) tests tests/toolkit/search/sensitivity/test_bisect_gpu.py ;;
    residual) python3.10 tests/benchmarks/bench_residual.py /tmp/results/residual.json ;;
    shift) python3.10 tests/benchmarks/bench_shift.py /tmp/results/shift.json ;;
    loops) tests $backends/test_tensorrt_gpu.py tests/toolkit/calibration/test_calibration_gpu.py -k leaves_out ;;
    calibration) python3.10 tests/benchmarks/bench_gpu_calibration.py /tmp/models ;;
    run:*)
      IFS=: read -r _ model seconds <<< "$1"
      timeout "${seconds:-900}" python3.10 -m tests.benchmarks.bench_recogniser run "/tmp/gpu/carried/$model" "/tmp/run-$model"
      for file in faster.json search.json journal.jsonl report.json; do
        # there is no faster.json where no plan with INT8 was faster
        [ ! -f "/tmp/run-$model/run/$file" ] || cp "/tmp/run-$model/run/$file" "/tmp/results/${model}_$file"
      done ;;
    ray:*)
      IFS=: read -r _ model level <<< "$1"
      [ -d /tmp/gpu/site/ray ] || tar -xJf /tmp/gpu/ray.tar.xz -C /tmp/gpu/site
      all=$(nvidia-smi --query-gpu=index --format=csv,noheader | paste -sd,)
      env CUDA_VISIBLE_DEVICES="${RAY_CARDS:-$all}" TMPDIR=/tmp RAY_AUTH_MODE=disabled \
        python3.10 -m tests.benchmarks.bench_cluster_gpu /tmp/models "/tmp/ray-$model" "$model" ${level:+"$level"} ;;
    placement:*)
      IFS=: read -r _ model rows level batches kernels <<< "$1"
      rows=${rows:-fp16,new,implicit,modelopt} batches=${batches:-8,32,1}
      env ${level:+LEVEL=$level} ${kernels:+KERNELS=1} AVERAGE="${AVERAGE:-8}" BATCHES="${batches//,/ }" KINDS="${rows//,/ }" \
        python3.10 tests/benchmarks/bench_placement.py /tmp/models "/tmp/results/$model.json" "$model" ;;
    *) echo "no job '$1'" && return 2 ;;
  esac
}
case $action in
  start) setsid bash "$0" jobs "$@" < /dev/null > /dev/null 2>&1 & sleep 1 ;;
  jobs)
    for name in "$@"; do
      SECONDS=0
      { job "$name"; echo "exit status $? after $SECONDS s"; } > "/tmp/results/$name.txt" 2>&1
    done ;;
  wait)
    ls /tmp/results/*.pid > /dev/null 2>&1 || { echo "nothing was started: send the start again"; exit 1; }
    for _ in $(seq "$1"); do
      running=0
      for pid in /tmp/results/*.pid; do kill -0 "$(cat "$pid")" 2> /dev/null && running=1; done
      [ $running = 1 ] || break
      sleep 1
    done
    for file in /tmp/results/*.txt; do echo "== $file"; tail -c 900 "$file"; done
    [ -z "${OUT:-}" ] || tar -czf "$OUT/results.tgz" -C /tmp results ;;
esac
