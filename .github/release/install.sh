#!/bin/sh
# Installs the diffucoder binary of a release for this machine, after checking its SHA-256.
#
#   sh install.sh              # to ~/.local/bin
#
# DIFFUCODER_VERSION=0.1.0     that release instead of the latest
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
        MINGW* | MSYS* | CYGWIN* | Windows*)
            fail "this script is not for Windows" "unpack the .zip of the release"
            ;;
        *) fail "there is no binary for $(uname -s)" "build it: see Install in the README" ;;
    esac
}

# Downloads $1 to $2.
fetch() {
    # What was asked for over https does not come over http: curl can be told so, wget cannot.
    case $1 in
        https:*) protocols=https ;;
        *) protocols=http,https ;;
    esac
    if has curl; then
        curl --fail --silent --show-error --location --proto-redir "=$protocols" --connect-timeout 20 --retry 2 \
            --output "$2" "$1"
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
    [ ! -d "$bin/diffucoder" ] || fail "$bin/diffucoder is a folder" "set DIFFUCODER_BIN, or move it away"
    target=$(target)
    archive=diffucoder-$target.tar.gz
    case $version in
        latest) from=$releases/latest/download ;;
        [0-9]*) from=$releases/download/v$version ;;
        *) from=$releases/download/$version ;;
    esac

    new=
    work=$(mktemp -d)
    trap 'rm -rf "$work" ${new:+"$new"}' EXIT
    trap 'exit 130' INT
    trap 'exit 143' TERM
    fetch "$from/$archive" "$work/$archive"
    fetch "$from/SHA256SUMS" "$work/SHA256SUMS"
    wanted=$(awk -v name="$archive" '$2 == name || $2 == "*" name { print $1 }' "$work/SHA256SUMS")
    [ -n "$wanted" ] || fail "SHA256SUMS does not name $archive"
    found=$(sha256 "$work/$archive")
    [ "$found" = "$wanted" ] || fail "$archive is damaged: its SHA-256 is $found, not $wanted" "nothing was installed; try again"

    tar -xzf "$work/$archive" -C "$work" diffucoder || fail "cannot unpack $archive"
    mkdir -p "$bin" || fail "cannot make the folder $bin" "set DIFFUCODER_BIN"
    bin=$(CDPATH='' cd -- "$bin" && pwd) # its whole path, as PATH has it: without a slash at the end
    # Whole or not at all: beside its place first, on the same file system. It is tried there, since programs may not be
    # allowed to run where temporary files are.
    new=$bin/.diffucoder.new.$$
    { cp "$work/diffucoder" "$new" && chmod 755 "$new"; } || fail "cannot write to $bin" "set DIFFUCODER_BIN"
    "$new" version >/dev/null || fail "the binary for $target does not run here" "nothing was installed"
    mv -f "$new" "$bin/diffucoder" || fail "cannot replace $bin/diffucoder"
    installed=$("$bin/diffucoder" version) || fail "$bin/diffucoder was installed, but does not run"
    echo "installed $installed as $bin/diffucoder" >&2
    case :$PATH: in
        *:"$bin":* | *:"$bin"/:*)
            other=$(command -v diffucoder || true)
            # The same file may have two paths.
            [ "$other" = "$bin/diffucoder" ] || cmp -s "$other" "$bin/diffucoder" ||
                echo "note: $other comes first on your PATH: remove it, or put $bin before it" >&2
            ;;
        *)
            echo "note: $bin is not on your PATH. This puts it there, and in a start file like ~/.profile for good:" >&2
            echo "    export PATH=\"$bin:\$PATH\"" >&2
            ;;
    esac
}

# All of it was read before any of it runs: a download that breaks off does nothing.
main
