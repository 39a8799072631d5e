#!/bin/sh
# Reduces a copy of the source tree to what dependencies are compiled from: manifests, the lock file, cargo's settings, and an
# empty program for each target. The result depends on nothing else, so that an image build compiles dependencies again only
# when a manifest or the lock file has changed.
#
#   sh deploy/skeleton.sh COPY
set -eu
cd "$1"
# Roots that cargo finds by their names, and those that a manifest names.
find . -type f \
    ! -name Cargo.toml ! -name Cargo.lock ! -path './.cargo/*' \
    ! -name lib.rs ! -name main.rs ! -name build.rs \
    ! -path ./tests/src/scripted_agent.rs ! -path ./services/executor/tests/program/program.rs \
    -delete
find . -name '*.rs' -exec sh -c 'for root; do echo "fn main() { }" > "$root"; done' sh {} +
find . -mindepth 1 -type d -empty -delete
