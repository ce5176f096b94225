#!/usr/bin/env bash
# What needs two or more GPUs (NCCL), for whoever has them: the same digits run on one process and on all GPUs must
# report the same test counts from one checkpoint, and a CIFAR-10 epoch shows how the speed scales.
#
#   bash benchmarks/multi_gpu.sh [FLAGS OF THE DATA, such as --data.source=npz --data.data_dir=data/cifar10.npz]
#
# PYTHON is the interpreter (default: .venv/bin/python). Not yet measured on CUDA.
set -euo pipefail
cd "$(dirname "$0")/.."
python=${PYTHON:-.venv/bin/python}
gpus=$("$python" -c 'import torch; print(torch.cuda.device_count())')
if ((gpus < 2)); then
  echo "needs two or more GPUs; this machine has ${gpus}" >&2
  exit 2
fi

"$python" -m spikesparse train --fresh --config configs/experiment/digits.yaml \
  --trainer.devices="$gpus" --trainer.strategy=ddp --data.batch_size=$((64 / gpus))
checkpoint=$(ls -t runs/digits-*/seed0/checkpoints/best.ckpt | head -n 1)
for devices in 1 "$gpus"; do
  strategy=$([[ $devices == 1 ]] && echo auto || echo ddp)
  echo "== test on ${devices} GPU(s): the counts must be equal"
  "$python" -m spikesparse test --ckpt_path="$checkpoint" --trainer.devices="$devices" --trainer.strategy="$strategy"
done
for devices in 1 "$gpus"; do
  strategy=$([[ $devices == 1 ]] && echo auto || echo ddp)
  echo "== one epoch of cifar10_vgg9 on ${devices} GPU(s)"
  time "$python" -m spikesparse fit --fresh --config configs/experiment/cifar10_vgg9.yaml --trainer.max_epochs=1 \
    --model.scheduler.warmup_epochs=0 --trainer.devices="$devices" --trainer.strategy="$strategy" "$@"
done
