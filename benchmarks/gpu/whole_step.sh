#!/bin/sh
# Times a whole step against TRL's: 8 prompts x 8 samples x up to 256 tokens.  sh benchmarks/gpu/whole_step.sh [--dry-run]
cd "$(dirname "$0")/.." && python gpu_step.py --varied --steps 6 --warm 2 --sides trl "$@"
