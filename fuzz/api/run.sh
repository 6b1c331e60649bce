#!/usr/bin/env bash
# Sends what /openapi.json allows, and what it does not, to the real service on a real ClickHouse, and
# holds every answer against the document.
#
#   fuzz/api/run.sh                  as CI does: bounded, the same requests every time
#   SEED=random fuzz/api/run.sh      other requests; the seed is printed
#   MAX_EXAMPLES=2000 fuzz/api/run.sh
#
# Needed: python3 with venv. schemathesis is fetched by name, version and digest into target/.
set -euo pipefail
cd "$(dirname "$0")/../.."

seed=${SEED:-7}
[ "$seed" != random ] || seed=$(od -An -N4 -tu4 /dev/urandom | tr -d ' ')
examples=${MAX_EXAMPLES:-40}
binary=$(realpath -m "${BINARY:-target/debug/traffic-api}")
tools=$PWD/target/api-fuzz
here=$PWD/fuzz/api

if ! cmp -s "$here/requirements.txt" "$tools/installed"; then
    rm -rf "$tools"
    python3 -m venv "$tools"
    "$tools/bin/pip" install --quiet --disable-pip-version-check --require-hashes --only-binary :all: \
        --requirement "$here/requirements.txt"
    cp "$here/requirements.txt" "$tools/installed"
fi
[ -n "${BINARY:-}" ] || cargo build --quiet --locked

work=$(mktemp -d)
service=
stop() {
    [ -z "$service" ] || { kill "$service" 2>/dev/null && wait "$service" || true; }
    service=
}
trap 'stop; rm -rf "$work"' EXIT

# Starts the service with the settings $2... on the data of its own in $1 and says where it listens.
start() {
    local data=$work/$1
    shift
    mkdir -p "$data"
    : >"$data/log"
    # The settings of whoever runs this are not the ones under test. With ten years' retention the times
    # in the document's examples are good ones.
    env -i PATH="$PATH" HOME="$HOME" ${ENGINE_CACHE_DIR:+ENGINE_CACHE_DIR="$ENGINE_CACHE_DIR"} \
        RETENTION_DAYS=3650 EVENTS_RETENTION_DAYS=3650 DATA_DIR="$data" LISTEN_ADDR=127.0.0.1:0 LOG_FORMAT=json LOG_LEVEL=warn,traffic_api=info \
        "$@" "$binary" >"$data/out" 2>"$data/log" &
    service=$!
    for _ in $(seq 600); do
        url=$(sed -nE 's/.*"message":"ready".*"address":"([^"]+)".*/http:\/\/\1/p' "$data/log")
        [ -z "$url" ] || return 0
        kill -0 "$service" 2>/dev/null || break
        sleep 0.1
    done
    cat "$data/log" >&2
    return 1
}

# A run of its own for every config file.
fuzz() {
    local config=$1
    echo "schemathesis: $config, seed $seed, at most $examples examples each"
    # What it remembers of a run goes with the run.
    (cd "$work" && SCHEMATHESIS_HOOKS=formats PYTHONPATH=$here PYTHONDONTWRITEBYTECODE=1 \
        "$tools/bin/schemathesis" --config-file "$here/$config.toml" run "$url/openapi.json" \
        --seed "$seed" --max-examples "$examples" --no-color)
}

# What the service itself takes for its own defect would be a 500, and in the log.
no_defect() {
    ! grep -F '"level":"ERROR"' "$work/$1/log" >&2
}

start open
fuzz open
no_defect open
stop

# With keys: what is open stays open, what is not is closed to who has none or a wrong one.
API_KEY=$("$binary" key new --client fuzz --scopes read,write,admin --api-keys-file "$work/keys.txt" | tr -d '\n')
start keys API_KEYS_FILE="$work/keys.txt"
export API_KEY
examples=$((examples / 4 + 1))
fuzz keys
no_defect keys
stop
