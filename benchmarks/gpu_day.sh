#!/usr/bin/env bash
# A GPU for fifteen minutes, on a machine without internet that takes 64 MiB with a command, in two commands.
#
#   gpu_day.sh pack DATA              at home: .gpu/first and .gpu/second, what the commands need; DATA has carry.py,
#                                     the two zips of CIFAR-10 and, if there is room, MNIST/raw/*.gz
#   gpu_day.sh first OUT [MINUTES]    there, with .gpu/first: whether the kernels are right and how fast they are
#   gpu_day.sh second OUT [MINUTES]   there, with .gpu/second, on the same machine: a row of a table, or more
#   gpu_day.sh keep OUT               at home: what came back, into benchmarks/gpu.md and reproductions/measured; the
#                                     second command's has the first one's in it
#
# All from the root of the checkout, which must be committed: the evidence names the commit. Where a command runs as
# `run(command, carry, timeout_s)`, with OUT what comes back:
#
#   run("bash benchmarks/gpu_day.sh first $OUT", carry=[".gpu/first"], timeout_s=300)
#   run("bash benchmarks/gpu_day.sh second $OUT", carry=[".gpu/second"], timeout_s=490)
#
# The minutes, 4.5 and 7.5, are of fifteen in which a machine starts in two; $PYTHON is the interpreter, or python3.
set -euo pipefail

python=${PYTHON:-python3}
there=${TMPDIR:-/tmp}/gpu_day  # outside of the checkout, so that the second command finds what the first one left
limit=$((64 * 2**20))
bunzip2="import bz2, sys; sys.stdout.buffer.write(bz2.decompress(sys.stdin.buffer.read()))"

stop() {
    echo "gpu_day.sh: $1" >&2
    exit 2
}

pack() {
    local data=$1 excluded
    [ -z "$(git status --porcelain)" ] || stop "commit first, since the evidence names the commit"
    excluded=$(git rev-parse --git-path info/exclude)
    mkdir -p "$(dirname "$excluded")"
    grep -qx "/.gpu/" "$excluded" 2>/dev/null || echo "/.gpu/" >>"$excluded"
    rm -rf .gpu
    mkdir -p .gpu/first/mnist .gpu/second/mnist
    download .gpu/first/wheels spikingjelly==0.0.0.0.14
    download .gpu/first/peers/spikingjelly2 spikingjelly==2.0.0 loguru==0.7.3
    download .gpu/first/peers/snntorch snntorch==1.0.0
    cp -r .gpu/first/wheels .gpu/second/wheels
    "$python" "$data/carry.py" pack .gpu/parts
    mv .gpu/parts/part1 .gpu/first/cifar10
    mv .gpu/parts/part2 .gpu/second/cifar10
    if [ -d "$data/MNIST" ]; then mnist "$data/MNIST/raw"; fi
    cp "$data/carry.py" .gpu/first
    cp "$data/carry.py" .gpu/second
    commit .gpu/first/git
    cp -r .gpu/first/git .gpu/second/git
    rm -r .gpu/parts
    weigh .gpu/first
    weigh .gpu/second
}

mnist() { # bzip2 makes the training images a sixth smaller than gzip does, and some of them fit into the first command
    cp "$1"/{t10k-images-idx3,t10k-labels-idx1,train-labels-idx1}-ubyte.gz .gpu/first/mnist
    gunzip --stdout "$1/train-images-idx3-ubyte.gz" | bzip2 --best >.gpu/mnist.bz2
    head --bytes 1500000 .gpu/mnist.bz2 >.gpu/first/mnist/train.1
    tail --bytes +1500001 .gpu/mnist.bz2 >.gpu/second/mnist/train.2
    rm .gpu/mnist.bz2
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
    [ $((tree + carried)) -le "$limit" ] || stop "$1 is too large: try a DATA without MNIST"
}

ready() { # of what travelled with this command
    mkdir -p "$there"
    for wheel in ".gpu/$1"/wheels/*.whl; do "$python" -m zipfile -e "$wheel" "$there/site"; done
    for wheel in ".gpu/$1"/peers/*/*.whl; do
        if [ -e "$wheel" ]; then "$python" -m zipfile -e "$wheel" "$there/peers/$(basename "$(dirname "$wheel")")"; fi
    done
    export PYTHONPATH="$there/site${PYTHONPATH:+:$PYTHONPATH}"
    cp -r ".gpu/$1/mnist" "$there"
    "$python" ".gpu/$1/carry.py" unpack "$there/data" ".gpu/$1/cifar10"
    if [ ! -e .git ] && command -v git >/dev/null; then
        cp -r ".gpu/$1/git" "$there/"
        export GIT_DIR="$there/git" GIT_WORK_TREE="$PWD"
        git reset --quiet
    fi
}

first() {
    ready first
    "$python" benchmarks/gpu.py --minutes "${2:-4.5}" --out "$1" --sections card right fast --peers "$there/peers" \
        --data-root "$there/data"
    cp "$1/gpu.jsonl" "$there"
}

second() {
    local began=$SECONDS images
    ready second
    images=$(find "$there/data/cifar10" -name "*.png" | wc -l)
    [ "$images" = 60000 ] || stop "$images images: is this the machine of the first command?"
    if [ -e "$there/mnist/train.2" ]; then
        mkdir -p "$there/data/MNIST/raw"
        cp "$there"/mnist/*.gz "$there/data/MNIST/raw"
        cat "$there"/mnist/train.[12] | "$python" -c "$bunzip2" >"$there/data/MNIST/raw/train-images-idx3-ubyte"
    fi
    mkdir -p "$1"
    cp "$there/gpu.jsonl" "$1"  # what was measured decides which row fits, and the readable part has all
    echo "ready in $((SECONDS - began)) s"
    "$python" benchmarks/gpu.py --minutes "${2:-7.5}" --out "$1" --sections evidence --data-root "$there/data"
}

keep() {
    if [ -e "$1/gpu_evidence.zip" ]; then "$python" -m zipfile -e "$1/gpu_evidence.zip" reproductions/measured; fi
    cp "$1/gpu.md" benchmarks/gpu.md
    echo "Written: benchmarks/gpu.md. Put the lines under Evidence into their profiles.yaml, then:"
    echo "jellyplus render --out reproductions/measured"
}

case "${1:-}" in
    pack | first | second | keep)
        if [ $# -ge 2 ]; then
            "$@"
            exit
        fi
        ;;
esac
sed -n '2,/^set/{/^#/p}' "$0" >&2
exit 2
