"""Projects and users, records from elsewhere, features, and cost models that were refused."""

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"


def upgrade() -> None:
    _projects_and_users()
    _imports()
    _features()
    with op.batch_alter_table("cost_models") as table:
        table.add_column(
            sa.Column("promoted", sa.Boolean, nullable=False, server_default=sa.true())
        )


def _features() -> None:
    op.create_table(
        "candidate_features",
        sa.Column("candidate_key", sa.Text, nullable=False),
        sa.Column("version", sa.Integer, nullable=False),
        sa.Column("data", sa.LargeBinary, nullable=False),
        sa.PrimaryKeyConstraint("candidate_key", name="pk_candidate_features"),
        sa.ForeignKeyConstraint(
            ["candidate_key"], ["candidates.key"], name="fk_candidate_features_candidate_key"
        ),
    )


def _projects_and_users() -> None:
    op.create_table(
        "projects",
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("created_at", sa.Double, nullable=False),
        sa.PrimaryKeyConstraint("name", name="pk_projects"),
    )
    op.create_table(
        "users",
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("first_seen_at", sa.Double, nullable=False),
        sa.PrimaryKeyConstraint("name", name="pk_users"),
    )
    op.execute(
        "INSERT INTO projects SELECT 'default', min(submitted_at) FROM jobs HAVING count(*) > 0"
    )
    op.execute(
        "INSERT INTO users SELECT 'unknown', min(submitted_at) FROM jobs HAVING count(*) > 0"
    )
    with op.batch_alter_table("jobs") as table:
        table.add_column(sa.Column("project", sa.Text, nullable=False, server_default="default"))
        table.add_column(
            sa.Column("submitted_by", sa.Text, nullable=False, server_default="unknown")
        )
        table.create_foreign_key("fk_jobs_project", "projects", ["project"], ["name"])
        table.create_foreign_key("fk_jobs_submitted_by", "users", ["submitted_by"], ["name"])
        table.create_index("ix_jobs_project", ["project"])


def _imports() -> None:
    op.create_table(
        "imports",
        sa.Column(
            "import_id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False
        ),
        sa.Column("source", sa.Text, nullable=False),
        sa.Column("format", sa.Text, nullable=False),
        sa.Column("imported_by", sa.Text, nullable=False),
        sa.Column("imported_at", sa.Double, nullable=False),
        sa.Column("records", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("import_id", name="pk_imports"),
        sa.ForeignKeyConstraint(["imported_by"], ["users.name"], name="fk_imports_imported_by"),
    )
    with op.batch_alter_table("measurements") as table:
        table.alter_column("job_id", existing_type=sa.Text, nullable=True)
        table.add_column(
            sa.Column("import_id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"))
        )
        table.create_foreign_key(
            "fk_measurements_import_id", "imports", ["import_id"], ["import_id"]
        )
        table.create_index("ix_measurements_import", ["import_id"])
