"""Spark with Apache's Iceberg runtime, answering requests line by line: the other half of interop.py."""

import datetime, decimal, glob, json, os, sys

os.environ["TZ"] = "UTC"
out = os.fdopen(os.dup(1), "w")
os.dup2(2, 1)  # what Spark prints is talk
from pyspark.sql import SparkSession

packages = next(p for p in sys.path if p.endswith("site-packages"))
jar = glob.glob(f"{packages}/snowpark_connect_deps_iceberg/jars/iceberg-spark-runtime-3.5_2.12-*.jar")[0]
session = (
    SparkSession.builder.master("local[1]")
    .config("spark.jars", jar)
    .config("spark.sql.extensions", "org.apache.iceberg.spark.extensions.IcebergSparkSessionExtensions")
    .config("spark.sql.session.timeZone", "UTC")
    .config("spark.ui.enabled", "false")
    .config("spark.driver.memory", "1g")
    .config("spark.driver.bindAddress", "127.0.0.1")
    .config("spark.driver.host", "127.0.0.1")
    .config("spark.sql.shuffle.partitions", "2")
    .getOrCreate()
)
session.sparkContext.setLogLevel("ERROR")


def catalog_of(folder):
    """A Hadoop catalog at the table's warehouse, and the table's name in it."""
    warehouse, namespace, table = folder.rsplit("/", 2)
    name = "w" + format(abs(hash(warehouse)), "x")
    session.conf.set(f"spark.sql.catalog.{name}", "org.apache.iceberg.spark.SparkCatalog")
    session.conf.set(f"spark.sql.catalog.{name}.type", "hadoop")
    session.conf.set(f"spark.sql.catalog.{name}.warehouse", f"file://{warehouse}")
    session.conf.set(f"spark.sql.catalog.{name}.cache-enabled", "false")
    return name, f"{namespace}.{table}"


def typed(value):
    if isinstance(value, (datetime.datetime, datetime.date)):
        return str(value)
    if isinstance(value, decimal.Decimal):
        return format(value, "f")
    return value


def answer(request):
    if request["do"] == "version":
        return f"{session.version} + Iceberg {os.path.basename(jar).rsplit('-', 1)[1].removesuffix('.jar')}"
    catalog, name = catalog_of(request["folder"])
    if request["do"] == "read":
        return [[typed(v) for v in row] for row in session.sql(f"SELECT {request['columns']} FROM {catalog}.{name}").collect()]
    statement = request["sql"].replace("$table", f"{catalog}.{name}").replace("$catalog", catalog).replace("$name", name)
    return [[typed(v) for v in row] for row in session.sql(statement).collect()]


for line in sys.stdin:
    try:
        said = {"answer": answer(json.loads(line))}
    except Exception as e:
        said = {"error": f"{type(e).__name__}: {str(e)[:1500]}"}
    out.write(json.dumps(said, default=str) + "\n")
    out.flush()
