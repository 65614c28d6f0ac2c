"""Other programs that bring PostgreSQL tables into Parquet, each as its documentation has it: `peers.py NAME`, with what to do as JSON on the
command line. zstd level 1 and two connections where the program can; what it cannot is said where it is used.

Each runs in a process of its own. `peers.py count FOLDER` prints how many rows and bytes the Parquet files below a folder have.
"""

import glob, json, os, sys, threading


def duckdb(job):
    """DuckDB's scanner of PostgreSQL: a table is read by ranges of its pages, by as many connections as it has threads."""
    import duckdb, duckdb_extension_postgres_scanner as scanner
    db = duckdb.connect(config={"threads": 2})
    db.execute("LOAD '%s'" % glob.glob(os.path.dirname(scanner.__file__) + "/extensions/*/*.duckdb_extension")[0])
    db.execute("SET pg_connection_limit = 2")
    db.execute(f"ATTACH '{job['url']}' AS pg (TYPE postgres, READ_ONLY)")
    def copy(cursor, tables):
        for table in tables:
            cursor.execute(f"COPY pg.public.{table} TO '{job['out']}/{table}.parquet' (FORMAT parquet, COMPRESSION zstd, COMPRESSION_LEVEL 1)")
    if len(job["tables"]) == 1:
        copy(db, job["tables"])
    else:
        at_once([(db.cursor(), job["tables"][start::2]) for start in (0, 1)], copy)


def connectorx(job):
    """ConnectorX as a stream of Arrow batches; a whole table at once would need its size in memory. Two streams, one for each half."""
    import connectorx, pyarrow.parquet
    def copy(half, queries):
        for number, query in enumerate(queries):
            batches = connectorx.read_sql(job["url"], query, protocol="binary", return_type="arrow_stream", batch_size=65536)
            write(pyarrow.parquet, batches.schema, batches, f"{job['out']}/{half}-{number}.parquet")
    at_once(list(enumerate(job["halves"])), copy)


def adbc(job):
    """ADBC's driver, batch by batch. Two connections, one for each half."""
    import adbc_driver_postgresql.dbapi, pyarrow.parquet
    def copy(half, queries):
        with adbc_driver_postgresql.dbapi.connect(job["url"]) as connection, connection.cursor() as cursor:
            for number, query in enumerate(queries):
                cursor.execute(query)
                batches = cursor.fetch_record_batch()
                write(pyarrow.parquet, batches.schema, batches, f"{job['out']}/{half}-{number}.parquet")
    at_once(list(enumerate(job["halves"])), copy)


def dlt(job):
    """dlt's sql_database with its ConnectorX backend, streaming; two workers, one table each."""
    os.environ |= {"RUNTIME__DLTHUB_TELEMETRY": "false", "RUNTIME__LOG_LEVEL": "ERROR", "EXTRACT__WORKERS": "2", "LOAD__WORKERS": "2",
                   "DATA_WRITER__COMPRESSION": "zstd"}  # pyarrow's level for zstd is 1
    import dlt
    from dlt.sources.sql_database import sql_database
    source = sql_database(job["url"].replace("postgresql:", "postgresql+psycopg2:"), schema="public", table_names=job["tables"], backend="connectorx",
                          chunk_size=65536, reflection_level="minimal", backend_kwargs={"conn": job["url"], "return_type": "arrow_stream"})
    for resource in source.resources.values():
        resource.parallelize()
    sys.setrecursionlimit(100_000)  # it recurses once for each table
    pipeline = dlt.pipeline("bench", pipelines_dir=f"{job['scratch']}/dlt", destination=dlt.destinations.filesystem(f"file://{job['out']}"), dataset_name="out")
    pipeline.run(source, loader_file_format="parquet").raise_on_failed_jobs()


def write(parquet, schema, batches, path):
    with parquet.ParquetWriter(path, schema, compression="zstd", compression_level=1) as writer:
        for batch in batches:
            writer.write_batch(batch)


def at_once(arguments, work):
    """Runs `work` in a thread for each of the arguments. The first error ends the process with its words."""
    failures = []
    def run(*argument):
        try:
            work(*argument)
        except BaseException as error:  # a panic of ConnectorX is not an Exception
            failures.append(error)
    threads = [threading.Thread(target=run, args=argument) for argument in arguments]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]


def count(folder):
    import pyarrow.parquet
    files = [path for path in glob.glob(f"{folder}/**/*.parquet", recursive=True) if "/_" not in path[len(folder):]]
    print(sum(pyarrow.parquet.read_metadata(path).num_rows for path in files), sum(map(os.path.getsize, files)))


PEERS = {"duckdb": duckdb, "connectorx": connectorx, "adbc": adbc, "dlt": dlt}

if __name__ == "__main__":
    name, argument = sys.argv[1:]
    if name == "count":
        count(argument)
    else:
        try:
            PEERS[name](json.load(open(argument)))
        except BaseException as error:
            print(" ".join(f"{type(error).__name__}: {error}".split()), flush=True)
            os._exit(3)
