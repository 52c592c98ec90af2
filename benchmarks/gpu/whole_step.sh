#!/bin/sh
# How many times as fast is a whole step as TRL's, 8 prompts x 8 samples x 256 tokens, varied lengths?  [--dry-run]
cd "$(dirname "$0")/.." && python gpu_step.py --varied --steps 6 --warm 2 --sides trl "$@"
