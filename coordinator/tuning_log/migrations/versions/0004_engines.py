"""A job's result as one value, with other engines than ONNX Runtime in it."""

import json

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"

NUMBERS = ("untuned_ms", "tuned_ms", "onnxruntime_ms", "max_abs_error", "max_rel_error")
INTERVAL = ("tuned_low_ms", "tuned_high_ms")
PACKAGE = ("package_filename", "package_size_bytes")


def upgrade() -> None:
    with op.batch_alter_table("jobs") as table:
        table.add_column(sa.Column("result_json", sa.Text))
    _fill_jobs()
    _mend_packages()
    with op.batch_alter_table("jobs") as table:
        for name in (*NUMBERS, *PACKAGE):
            table.drop_column(name)


def _fill_jobs() -> None:
    names = (*NUMBERS, *PACKAGE, "package_sha256")
    jobs = sa.table("jobs", *(sa.column(name) for name in ("id", *names, "result_json")))
    packages = sa.table("packages", sa.column("sha256"), sa.column("result_json"))
    connection = op.get_bind()
    kept = connection.execute(sa.select(packages.c.sha256, packages.c.result_json)).all()
    of_package = {sha256: json.loads(result_json) for sha256, result_json in kept}
    query = sa.select(jobs).where(jobs.c.package_sha256.is_not(None))
    for row in connection.execute(query).all():
        result = {name: getattr(row, name) for name in names}
        for name in INTERVAL:  # was only kept with the package
            result[name] = of_package.get(row.package_sha256, {}).get(name)
        change = jobs.update().where(jobs.c.id == row.id)
        connection.execute(change.values(result_json=_with_engines(result)))


def _mend_packages() -> None:
    packages = sa.table("packages", sa.column("key"), sa.column("result_json"))
    connection = op.get_bind()
    for key, result_json in connection.execute(sa.select(packages)).all():
        change = packages.update().where(packages.c.key == key)
        connection.execute(change.values(result_json=_with_engines(json.loads(result_json))))


def _with_engines(result: dict[str, object]) -> str:
    latency_ms = result.pop("onnxruntime_ms", None)
    engine = {"name": "onnxruntime", "version": "", "latency_ms": latency_ms}
    result["engines"] = [] if latency_ms is None else [engine]
    return json.dumps(result, sort_keys=True)
