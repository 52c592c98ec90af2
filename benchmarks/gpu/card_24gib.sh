#!/bin/sh
# Does LoRA on Qwen2.5-7B's shape train within 24 GiB, and at what speed?  [--dry-run]
cd "$(dirname "$0")/.." && python gpu_scale.py --model 7b --card 24 "$@"
