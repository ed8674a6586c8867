#!/usr/bin/env bash
# The registry's tests against a PostgreSQL server of their own, which is started here and stopped whatever happens.
#   scripts/postgres.sh [TEST..]    run them, all or those named
#   scripts/postgres.sh start [tls]    start a server, which offers TLS or not; prints its folder and its port
#   scripts/postgres.sh kill|again|stop FOLDER    kill it as a crash would; start it once more; stop it and remove it
set -euo pipefail
cd "$(dirname "$0")/.."

programs=$(for folder in /usr/lib/postgresql/*/bin; do echo "$folder"; done | sort -V | tail -n 1)
[ -x "$programs/initdb" ] || programs=$(dirname "$(command -v initdb || echo /)")
if [ ! -x "$programs/initdb" ]; then
    echo "there is no PostgreSQL server here: install one, as with \`apt-get install postgresql\`" >&2
    exit 2
fi

# The server refuses to be run by root.
server() {
    if [ "$(id -u)" = 0 ]; then
        setpriv --reuid=postgres --regid=postgres --clear-groups env -C / "$@"
    else
        "$@"
    fi
}

# On a free port of the loopback interface.
launch() {
    local folder=$1 port
    for _ in $(seq 20); do
        port=$(cat "$folder/port" 2>/dev/null || shuf -i 20000-32000 -n 1)
        if server "$programs/pg_ctl" -s -w -t 60 -D "$folder/data" -l "$folder/log" \
            -o "-p $port -c listen_addresses=127.0.0.1 -c unix_socket_directories=$folder -c max_connections=300" \
            start >/dev/null 2>&1; then
            echo "$port" >"$folder/port"
            return
        fi
    done
    cat "$folder/log" >&2
    exit 1
}

start() {
    local folder
    # In memory, where there is such a folder: what the tests ask of a disk they ask of SQLite's.
    folder=$(mktemp -d -p "$([ -w /dev/shm ] && echo /dev/shm || echo "${TMPDIR:-/tmp}")")
    [ "$(id -u)" = 0 ] && chown postgres "$folder"
    server "$programs/initdb" -D "$folder/data" -U tester -A trust --locale=C.UTF-8 -E UTF8 >/dev/null
    # Who is called guarded needs a password.
    server sed -i '1i host all guarded 127.0.0.1/32 scram-sha-256' "$folder/data/pg_hba.conf"
    if [ "${1:-}" = tls ]; then
        openssl req -new -x509 -days 2 -nodes -subj /CN=localhost -addext "subjectAltName=IP:127.0.0.1" \
            -addext "basicConstraints=critical,CA:FALSE" -keyout "$folder/server.key" -out "$folder/server.crt" 2>/dev/null
        chmod 600 "$folder/server.key"
        [ "$(id -u)" = 0 ] && chown postgres "$folder/server.key"
        printf "ssl = on\nssl_cert_file = '%s/server.crt'\nssl_key_file = '%s/server.key'\n" "$folder" "$folder" |
            server tee -a "$folder/data/postgresql.conf" >/dev/null
    fi
    launch "$folder"
    server "$programs/psql" -q -h 127.0.0.1 -p "$(cat "$folder/port")" -U tester -d postgres \
        -c "CREATE ROLE guarded LOGIN PASSWORD 's3cret/@:%' CREATEDB"
    echo "$folder $(cat "$folder/port")"
}

stop() {
    server "$programs/pg_ctl" -s -D "$1/data" -m immediate stop >/dev/null 2>&1 || true
    rm -rf "$1"
}

case ${1:-} in
start) start "${2:-}" ;;
kill) server "$programs/pg_ctl" -s -D "$2/data" -m immediate stop ;;
again) launch "$2" ;;
stop) stop "$2" ;;
*)
    read -r folder port < <(start)
    trap 'stop "$folder"' EXIT
    export RESNET_ZOO_TEST_POSTGRES="postgres://tester@127.0.0.1:$port"
    if [ $# -gt 0 ]; then
        tests=("$@")
    else
        cargo test --features postgres --lib registry
        tests=(it::postgres it::registry it::list it::compare it::diff it::bundle it::export it::rerun it::sweep it::web
            it::cli::a_run it::promises::swarm it::promises::upkeep it::promises::scale it::promises::deaths::killed_at_random)
    fi
    # What is left out looks at SQLite's file, at its locks, or at a machine that only its lock files tell of.
    left_out=(files_of_others_and_newer_registries a_registry_opens_as_the_protocol the_dead_are_shown_as_crashed
        of_several_resumers_one_wins a_second_resumer_is_refused_and_a_fenced a_run_of_a_machine_that_is_gone
        gc_takes_what_nobody_names)
    cargo test --features postgres --test it -- "${tests[@]}" "${left_out[@]/#/--skip=}"
    ;;
esac
