#!/usr/bin/env bash
# Everything that needs CUDA, in one command of under ten minutes and without network: the kernels against the
# reference, the table beside the peers and the limit, how cost grows with T, memory, and where the time goes.
#
#   PYTHON=/path/to/python bash benchmarks/gpu.sh     # an interpreter with torch, Lightning, pytest; peers in .peers/
#   DEVICE=cpu FAST=1 bash benchmarks/gpu.sh          # the same command lines on a tiny network, to see that they run
#
# Tables are appended in OUT (default: results/) as they come, each stage's output goes to OUT/gpu_<stage>.log, and a
# stage that fails or outlasts its time does not stop the others. STAGES names some of them only. Two are not among them:
# STAGES=epochs takes four minutes more: whole epochs of training, eager and with CUDA graphs; STAGES=rows takes nine:
# rows that a campaign lacks (ROWS, default: "vgg9_eight_steps --npz data/cifar10.npz"), five beside each other.
set -uo pipefail
cd "$(dirname "$0")/.."
python=${PYTHON:-python3}
device=${DEVICE:-cuda}
out=${OUT:-results}
stages=${STAGES:-kernels table sweep memory profile}
export PYTHONPATH="src:benchmarks${PYTHONPATH:+:$PYTHONPATH}"
mkdir -p "$out"

step=("$python" benchmarks/train_step.py --device "$device" --patience 150)
if [[ ${FAST:-} ]]; then
  step+=(--fast)
  table=(--timesteps 2) few=(--timesteps 1 2) many=(--timesteps 4) memory=(--timesteps 2)
  all=(--contestants "spikesparse,limit eager channels-last,spikingjelly")
  sweep="spikesparse,limit eager channels-last"
  held="spikesparse,spikesparse checkpointed"
  profiles="spikesparse,limit eager channels-last"
  profiled=(--architecture 8-P-16-P-F32 --batch 4 --timesteps 2 --precision float32)
  epochs=(--config configs/experiment/cifar10_vgg7_cpu.yaml --images 400 --side 8 --epochs 2 "plain:")
  rows=${ROWS:-digits_loop --only digits_loop/twin/} workers=2
else
  export TORCHINDUCTOR_COMPILE_THREADS=${TORCHINDUCTOR_COMPILE_THREADS:-4} # of each worker; eight are prepared at a time
  step+=(--architecture vgg9 --precision bf16-mixed --parallel 8)
  table=(--timesteps 8 --batch 128 --rounds 12 --steps 5) all=()
  few=(--timesteps 1 2 4 8 --batch 128 --rounds 8 --steps 5)
  many=(--timesteps 8 16 32 100 --batch 16 --rounds 8 --steps 5)
  memory=(--timesteps 4 16 --batch 64)
  sweep="spikesparse,limit channels-last,spikingjelly best"
  held="spikesparse,spikesparse checkpointed,spikingjelly,spikingjelly best,spikingjelly best memopt"
  profiles="spikesparse,limit channels-last"
  profiled=(--timesteps 8 --batch 128)
  epochs=("eager: --model.compile=off" "graphs: --model.compile=reduce-overhead")
  rows=${ROWS:-vgg9_eight_steps --npz data/cifar10.npz} workers=5
fi

names=() codes=()
stage() { # NAME SECONDS COMMAND...
  local name=$1 seconds=$2
  shift 2
  [[ " $stages " == *" ${name%%-*} "* ]] || return 0
  echo "== ${name}: at most ${seconds} s; $*"
  timeout --kill-after=10 "$seconds" "$@" 2>&1 | tee "$out/gpu_${name}.log"
  names+=("$name") codes+=("${PIPESTATUS[0]}")
}

csv=(--csv "$out/train_step.csv")
stage kernels 100 "$python" -m pytest tests/ops/test_kernels_cuda.py
stage table 270 "${step[@]}" "${table[@]}" "${all[@]}" "${csv[@]}" --budget 260
stage sweep-few 65 "${step[@]}" "${few[@]}" --contestants "$sweep" --measure time --together "${csv[@]}" --budget 60
stage sweep-many 65 "${step[@]}" "${many[@]}" --contestants "$sweep" --measure time --together "${csv[@]}" --budget 60
stage memory 45 "${step[@]}" "${memory[@]}" --contestants "$held" --measure memory --together "${csv[@]}" --budget 60
stage profile 45 "$python" benchmarks/profile_step.py "${profiled[@]}" --device "$device" \
  --contestants "$profiles" --csv "$out/train_step_profile.csv"
stage epochs 240 "$python" benchmarks/epoch_time.py "${epochs[@]}" --csv "$out/epoch_time.csv"
# it stops by itself in time: what it was making goes on the next time
# shellcheck disable=SC2086 # ROWS is a list of words
stage rows 540 "$python" -m spikesparse campaign $rows --workers "$workers" --budget 510s --results "$out"

failed=0
for index in "${!names[@]}"; do
  code=${codes[$index]}
  meaning=$([[ $code == 0 ]] && echo well || { [[ $code == 124 ]] && echo "out of time" || echo "FAILED"; })
  echo "${names[$index]}: ${meaning} (status ${code})"
  ((code == 0)) || failed=1
done
exit "$failed"
