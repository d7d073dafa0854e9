#!/bin/bash
# Llama-2-13b-chat on one node of eight GPUs of 80 GB: sbatch slurm/train_13b.sh [KEY=VALUE …], from the checkout.
# `agenttune submit` makes the same for your nodes, partition and account. How it ends, saves and goes on: README, "Slurm".
#SBATCH --job-name=agentlm-13b
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --exclusive
#SBATCH --time=24:00:00
#SBATCH --signal=B:USR1@900
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=%x-%j.log
set -euo pipefail
exec .venv/bin/python launch/batch.py configs/llama2_13b.yaml "$@"
