#!/usr/bin/env bash
# On the GPU host. First, one call for each part of gpu_pack.sh, with that folder in carry, in one go (the host goes back 30
# seconds after a call ends, and what was on it is lost):
#     mkdir -p /tmp/gpu && mv .gpu/1/* /tmp/gpu/
# then, with .gpu/last in carry, the set-up and the start in one call, and calls that wait and bring the results back:
#     mv .gpu/last/* /tmp/gpu/ && bash tests/benchmarks/gpu_session.sh start tests
#     bash tests/benchmarks/gpu_session.sh wait 300
# What to start: tests, placement NAME [ROWS], calibration; each on the GPU that CUDA_VISIBLE_DEVICES names, in the background,
# so that a call's end does not end it. A fixed time to wait, and a process that is waited for by its number, never by a
# pattern that also fits the waiting shell: that mistake once cost a session's whole device time.
set -u
action=$1; shift
if [ ! -f /tmp/gpu/env.sh ]; then
  bash /tmp/gpu/unpack.sh
  mkdir -p /tmp/repo /tmp/results && tar -xzf /tmp/gpu/repo.tgz -C /tmp/repo
fi
cd /tmp/repo
. tests/benchmarks/gpu_env.sh
if [ ! -d /tmp/models ] && [ -d /tmp/gpu/carried ]; then python3.10 -m tests.benchmarks.carry fill /tmp/gpu/carried /tmp/models; fi
start() { # NAME COMMAND...
  local name=$1; shift
  setsid bash -c 'echo $$ > "/tmp/results/$0.pid"; "$@"; echo "exit status $?"' "$name" "$@" \
    < /dev/null > "/tmp/results/$name.txt" 2>&1 &
}
run_tests() { start "$1" python3.10 -m pytest -q -m gpu -p no:cacheprovider --no-header --tb=short -s "${@:2}"; }
case $action in
  start)
    case $1 in
      tests)
        backends=tests/toolkit/backends
        run_tests engines $backends/test_tensorrt_gpu.py -k "not trained and not calibrator"
        run_tests trained $backends/test_tensorrt_gpu.py -k trained
        run_tests calibrators $backends/test_tensorrt_gpu.py -k calibrator
        run_tests device tests/toolkit/test_device_gpu.py
        run_tests faster $backends/test_faster_gpu.py ;;
      placement)
        export KINDS=${3:-fp16 qtool modelopt implicit}
        start "placement_$2" python3.10 tests/benchmarks/bench_placement.py /tmp/models "/tmp/results/$2.json" "$2" ;;
      calibration) start calibration python3.10 tests/benchmarks/bench_gpu_calibration.py /tmp/models ;;
    esac
    sleep 1 ;;
  wait)
    for _ in $(seq "$1"); do
      running=0
      for pid in /tmp/results/*.pid; do kill -0 "$(cat "$pid")" 2> /dev/null && running=1; done
      [ $running = 1 ] || break
      sleep 1
    done ;;
esac
for file in /tmp/results/*.txt; do echo "== $file"; tail -c 1500 "$file"; done
[ -z "${OUT:-}" ] || tar -czf "$OUT/results.tgz" -C /tmp results
