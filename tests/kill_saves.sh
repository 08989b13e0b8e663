#!/usr/bin/env bash
# Kills a process that saves checkpoints 100 times (or as often as the first argument says) at random moments, and loads what is left each time.
set -euo pipefail
cd "$(dirname "$0")/.."
KILLS="${1:-100}" cargo test --test all snapshots::kills_leave_whole_checkpoints -- --exact --nocapture
