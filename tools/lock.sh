#!/usr/bin/env bash
# Write the pinned and hashed requirements of each environment, from pyproject.toml; `make lock` runs it.
#   tools/lock.sh            keep the versions in requirements/all.txt, unless pyproject.toml excludes them
#   tools/lock.sh --upgrade  take the newest versions; also --upgrade-package NAME
# torch and the CUDA libraries are in all.txt only: whether a build for CPUs or for CUDA is installed, and thus the
# hashes, depends on the index.
set -euo pipefail
cd "$(dirname "$0")/.."
uv=${UV:-.venv-tools/bin/uv}
all=requirements/all.txt

compile() {
    "$uv" pip compile --quiet --universal --python-version 3.11.5 --generate-hashes --no-annotate \
        --custom-compile-command "make lock" "$@"
}

mkdir -p requirements
compile pyproject.toml --extra all --extra bench --extra dev --extra docs \
    --group build --group test --group tools --output-file "$all" "$@"

without_torch=$(grep -oE '^(torch|triton|cuda-[a-z]+|nvidia-(cu|nccl|nv[jst])[a-z0-9-]*)==' "$all" | sed 's/==//; s/^/--no-emit-package /')
environment() {
    # shellcheck disable=SC2086  # options, one per word
    compile --constraint "$all" $without_torch --output-file "requirements/$1.txt" "${@:2}"
}

# psycopg for examples/telemetry-sink-postgres.
environment base pyproject.toml <(echo "psycopg[binary]") --group test
for sink in tensorboard wandb mlflow; do
    environment "$sink" pyproject.toml --extra "$sink" --group test
done
environment mlflow-skinny pyproject.toml <(echo mlflow-skinny) --group test
environment dev pyproject.toml --extra all --extra dev --group build
environment bench pyproject.toml --extra all --extra bench --extra dev --group build
environment docs pyproject.toml --extra docs --group build
environment tools --group build --group tools

# What these frameworks need in addition to the development environment, with which they share its packages.
shared=$(grep -oE '^[a-z0-9][a-z0-9._-]*==' requirements/dev.txt | sed 's/==//; s/^/--no-emit-package /')
for host in nequip:nequip mace:mace-torch; do
    # shellcheck disable=SC2086  # options, one per word
    environment "${host%%:*}" <(echo "${host##*:}") $shared
done
