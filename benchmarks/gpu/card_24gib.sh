#!/bin/sh
# Times LoRA training of Qwen2.5-7B's shape within 24 GiB.  sh benchmarks/gpu/card_24gib.sh [--dry-run]
cd "$(dirname "$0")/.." && python gpu_scale.py --model 7b --card 24 "$@"
