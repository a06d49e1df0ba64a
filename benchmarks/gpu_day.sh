#!/usr/bin/env bash
# A GPU for fifteen minutes, on a machine without internet that takes 64 MiB with a command, in three commands.
#
#   gpu_day.sh pack DATA              at home: .gpu/first, second and third, what the commands need; DATA has carry.py,
#                                     the two zips of CIFAR-10 and MNIST/raw/*.gz
#   gpu_day.sh first OUT [MINUTES]    there, with .gpu/first: whether the kernels are right and how fast they are
#   gpu_day.sh second OUT             there, with .gpu/second, on the same machine: data, no more
#   gpu_day.sh third OUT [MINUTES]    there, with .gpu/third, on the same machine: tables, and rows of tables
#   gpu_day.sh keep OUT               at home: what came back, into benchmarks/gpu.md and reproductions/measured; the
#                                     third command's has the first one's in it
#
# All from the root of the checkout, which must be committed: the evidence names the commit. Where a command runs as
# `run(command, carry, timeout_s)`, with OUT what comes back:
#
#   run("bash benchmarks/gpu_day.sh first $OUT", carry=[".gpu/first"], timeout_s=320)
#   run("bash benchmarks/gpu_day.sh second $OUT", carry=[".gpu/second"], timeout_s=60)
#   run("bash benchmarks/gpu_day.sh third $OUT", carry=[".gpu/third"], timeout_s=440)
#
# The minutes, 4.5 and 6.5, are of fifteen in which a machine starts in two; $PYTHON is the interpreter, or python3.
set -euo pipefail

python=${PYTHON:-python3}
there=${TMPDIR:-/tmp}/gpu_day  # outside of the checkout, so that the second command finds what the first one left
limit=$((64 * 2**20))

stop() {
    echo "gpu_day.sh: $1" >&2
    exit 2
}

pack() {
    local data=$1 excluded part
    [ -z "$(git status --porcelain)" ] || stop "commit first, since the evidence names the commit"
    excluded=$(git rev-parse --git-path info/exclude)
    mkdir -p "$(dirname "$excluded")"
    grep -qx "/.gpu/" "$excluded" 2>/dev/null || echo "/.gpu/" >>"$excluded"
    rm -rf .gpu
    mkdir -p .gpu/{first,second,third}/cifar10 .gpu/third/mnist
    download .gpu/first/wheels spikingjelly==0.0.0.0.14
    download .gpu/first/peers/spikingjelly2 spikingjelly==2.0.0 loguru==0.7.3
    download .gpu/first/peers/snntorch snntorch==1.0.0
    "$python" "$data/carry.py" pack .gpu/parts
    commit .gpu/first/git
    cp "$data"/MNIST/raw/*-ubyte.gz .gpu/third/mnist
    deal .gpu/parts
    for part in first second third; do
        cp "$data/carry.py" ".gpu/$part"
        weigh ".gpu/$part"
    done
}

deal() { # the images, which are in columns of some hundreds, to whichever has least
    local column to number=0
    for column in "$1"/part*/*.webp; do
        to=$(du --summarize --bytes .gpu/{first,second,third} | sort --numeric-sort | head --lines 1 | cut --fields 2)
        mv "$column" "$to/cifar10/$number.webp"
        mv "${column%.webp}.txt" "$to/cifar10/$number.txt"
        number=$((number + 1))
    done
    rm -r "$1"
}

download() { "$python" -m pip download --quiet --no-deps --only-binary=:all: --dest "$1" "${@:2}"; }

commit() { # trees and no files: enough to say which commit the files are, and whether they are its own
    local clone
    clone=$(mktemp --directory)
    git clone --quiet --depth 1 --filter=blob:none --no-checkout \
        --upload-pack "git -c uploadpack.allowFilter=true upload-pack" "file://$PWD" "$clone"
    mkdir -p "$clone/.git/info"
    echo "/.gpu/" >>"$clone/.git/info/exclude"
    mv "$clone/.git" "$1"
    rm -rf "$clone"
}

weigh() {
    local tree carried
    tree=$(git ls-files -z | xargs -0 cat | wc -c)
    carried=$(find "$1" -type f -print0 | xargs -0 cat | wc -c)
    echo "$1: $((carried / 1000)) kB, with the checkout $(((tree + carried) / 1000)) of $((limit / 1000)) kB"
    [ $((tree + carried)) -le "$limit" ] || stop "$1 is too large"
}

ready() { # of what travelled with this command, and of what an earlier one left
    mkdir -p "$there"
    for wheel in ".gpu/$1"/wheels/*.whl; do
        if [ -e "$wheel" ]; then "$python" -m zipfile -e "$wheel" "$there/site"; fi
    done
    for wheel in ".gpu/$1"/peers/*/*.whl; do
        if [ -e "$wheel" ]; then "$python" -m zipfile -e "$wheel" "$there/peers/$(basename "$(dirname "$wheel")")"; fi
    done
    export PYTHONPATH="$there/site${PYTHONPATH:+:$PYTHONPATH}"
    "$python" ".gpu/$1/carry.py" unpack "$there/data" ".gpu/$1/cifar10"
    if [ -e ".gpu/$1/git" ]; then cp -r ".gpu/$1/git" "$there/"; fi
    if command -v git >/dev/null; then stand_for_commit; fi
}

stand_for_commit() { # whatever .git travelled along may be of another one; it is put back, should this be somebody's own
    if [ -e .git ] && [ ! -e .git.before ]; then mv .git .git.before; fi
    trap 'rm -rf .git; if [ -e .git.before ]; then mv .git.before .git; fi' EXIT
    rm -rf .git
    cp -r "$there/git" .git
    echo "/.git.before/" >>.git/info/exclude
    git reset --quiet
}

first() {
    ready first
    "$python" benchmarks/gpu.py --minutes "${2:-4.5}" --out "$1" --sections card right fast --peers "$there/peers" \
        --data-root "$there/data"
    cp "$1/gpu.jsonl" "$there"
}

second() { ready second; }

third() {
    local began=$SECONDS images
    ready third
    images=$(find "$there/data/cifar10" -name "*.png" | wc -l)
    [ "$images" = 60000 ] || stop "$images images: is this the machine of the first command?"
    mkdir -p "$there/data/MNIST/raw" "$1"
    cp .gpu/third/mnist/*.gz "$there/data/MNIST/raw"
    gunzip "$there"/data/MNIST/raw/*.gz
    if [ -e "$there/gpu.jsonl" ]; then cp "$there/gpu.jsonl" "$1"; fi  # the readable part has all, and rows need epochs
    echo "ready in $((SECONDS - began)) s"
    "$python" benchmarks/gpu.py --minutes "${2:-6.5}" --out "$1" --sections evidence --data-root "$there/data"
}

keep() {
    if [ -e "$1/gpu_evidence.zip" ]; then "$python" -m zipfile -e "$1/gpu_evidence.zip" reproductions/measured; fi
    cp "$1/gpu.md" benchmarks/gpu.md
    echo "Written: benchmarks/gpu.md. Put the lines under Evidence into their profiles.yaml, then:"
    echo "jellyplus render --out reproductions/measured"
}

case "${1:-}" in
    pack | first | second | third | keep)
        if [ $# -ge 2 ]; then
            "$@"
            exit
        fi
        ;;
esac
sed -n '2,/^set/{/^#/p}' "$0" >&2
exit 2
