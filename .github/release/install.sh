#!/bin/sh
# Installs the diffucoder binary of a release for this machine, after checking its SHA-256.
#
#   sh install.sh              # to ~/.local/bin
#
# DIFFUCODER_VERSION=v0.1.0    that release instead of the latest
# DIFFUCODER_BIN=/some/folder  another folder
# DIFFUCODER_RELEASES=URL      another place with the layout of GitHub's releases
set -eu

# A release sets this to its own address.
releases=${DIFFUCODER_RELEASES:-}
version=${DIFFUCODER_VERSION:-latest}
bin=${DIFFUCODER_BIN:-${HOME:-}/.local/bin}

fail() {
    printf 'error: %s\n' "$1" >&2
    [ $# -lt 2 ] || printf 'hint: %s\n' "$2" >&2
    exit 1
}

has() {
    command -v "$1" >/dev/null 2>&1
}

target() {
    machine=$(uname -m)
    case $machine in
        x86_64 | amd64) machine=x86_64 ;;
        aarch64 | arm64) machine=aarch64 ;;
        *) fail "there is no binary for $machine" "build it: see Install in the README" ;;
    esac
    case $(uname -s) in
        Linux) echo "$machine-unknown-linux-musl" ;;
        Darwin)
            # A shell under Rosetta says x86_64.
            [ "$(sysctl -n hw.optional.arm64 2>/dev/null || true)" != 1 ] || machine=aarch64
            echo "$machine-apple-darwin"
            ;;
        *) fail "there is no binary for $(uname -s)" "for Windows: unpack the .zip of the release" ;;
    esac
}

# Downloads $1 to $2.
fetch() {
    if has curl; then
        curl --fail --silent --show-error --location --retry 2 --output "$2" "$1"
    elif has wget; then
        wget --quiet --output-document "$2" "$1"
    else
        fail "neither curl nor wget is here"
    fi || fail "cannot download $1" "does that release exist, and can this machine reach it?"
}

sha256() {
    if has sha256sum; then
        sha256sum "$1"
    else
        shasum -a 256 "$1"
    fi | cut -d ' ' -f 1
}

main() {
    [ -n "$releases" ] || fail "this copy does not know where releases are" "set DIFFUCODER_RELEASES, or take the install.sh of a release"
    [ "$bin" != /.local/bin ] || fail "HOME is not set" "set DIFFUCODER_BIN"
    has sha256sum || has shasum || fail "neither sha256sum nor shasum is here: the download could not be checked"
    target=$(target)
    archive=diffucoder-$target.tar.gz
    case $version in
        latest) from=$releases/latest/download ;;
        *) from=$releases/download/$version ;;
    esac

    work=$(mktemp -d)
    trap 'rm -rf "$work"' EXIT
    trap 'exit 130' INT
    trap 'exit 143' TERM
    fetch "$from/$archive" "$work/$archive"
    fetch "$from/SHA256SUMS" "$work/SHA256SUMS"
    wanted=$(awk -v name="$archive" '$2 == name || $2 == "*" name { print $1 }' "$work/SHA256SUMS")
    [ -n "$wanted" ] || fail "SHA256SUMS does not name $archive"
    found=$(sha256 "$work/$archive")
    [ "$found" = "$wanted" ] || fail "$archive is damaged: its SHA-256 is $found, not $wanted" "nothing was installed; try again"

    tar -xzf "$work/$archive" -C "$work" diffucoder || fail "cannot unpack $archive"
    "$work/diffucoder" version >/dev/null || fail "the binary for $target does not run here"
    mkdir -p "$bin" || fail "cannot make the folder $bin" "set DIFFUCODER_BIN"
    # Whole or not at all: beside its place first, on the same file system.
    cp "$work/diffucoder" "$bin/.diffucoder.new" || fail "cannot write to $bin" "set DIFFUCODER_BIN"
    mv -f "$bin/.diffucoder.new" "$bin/diffucoder"
    echo "installed $("$bin/diffucoder" version) as $bin/diffucoder" >&2
    case :$PATH: in
        *:"$bin":*) ;;
        *) echo "note: $bin is not on your PATH" >&2 ;;
    esac
}

# All of it was read before any of it runs: a download that breaks off does nothing.
main
