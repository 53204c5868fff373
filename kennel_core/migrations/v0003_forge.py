"""What is known of refs and pull requests, what the forge was told, and who asked for what."""

SQL = (
    'ALTER TABLE "projects" ADD COLUMN "forge_id" INTEGER',
    'ALTER TABLE "projects" ADD COLUMN "hook_id" INTEGER',
    """CREATE TABLE "refs" ("id" INTEGER NOT NULL PRIMARY KEY, "project_id" INTEGER NOT NULL, "ref"
        VARCHAR(255) NOT NULL, "head" VARCHAR(64), "stopped_at" REAL, "stopped_why" VARCHAR(255), FOREIGN
        KEY ("project_id") REFERENCES "projects" ("id") ON DELETE CASCADE)""",
    'CREATE INDEX "ref_project_id" ON "refs" ("project_id")',
    'CREATE UNIQUE INDEX "ref_project_id_ref" ON "refs" ("project_id", "ref")',
    """CREATE TABLE "pull_requests" ("id" INTEGER NOT NULL PRIMARY KEY, "project_id" INTEGER NOT NULL,
        "number" INTEGER NOT NULL, "author" VARCHAR(255) NOT NULL, "commit" VARCHAR(64) NOT NULL, "fork"
        INTEGER NOT NULL, "draft" INTEGER NOT NULL, "labels" TEXT NOT NULL, "open" INTEGER NOT NULL,
        "approved_commit" VARCHAR(64), "approved_by" VARCHAR(255), FOREIGN KEY ("project_id") REFERENCES
        "projects" ("id") ON DELETE CASCADE)""",
    'CREATE INDEX "pullrequest_project_id" ON "pull_requests" ("project_id")',
    """CREATE UNIQUE INDEX "pullrequest_project_id_number" ON "pull_requests" ("project_id", "number")""",
    """CREATE TABLE "forge_reports" ("id" INTEGER NOT NULL PRIMARY KEY, "project_id" INTEGER NOT NULL,
        "target" VARCHAR(255) NOT NULL, "digest" VARCHAR(255), "remote_id" INTEGER, "tries" INTEGER NOT
        NULL, "next_at" REAL, "error" VARCHAR(255), "updated_at" REAL NOT NULL, FOREIGN KEY ("project_id")
        REFERENCES "projects" ("id") ON DELETE CASCADE)""",
    'CREATE INDEX "forgereport_project_id" ON "forge_reports" ("project_id")',
    """CREATE UNIQUE INDEX "forgereport_project_id_target" ON "forge_reports" ("project_id", "target")""",
    """CREATE TABLE "audit" ("id" INTEGER NOT NULL PRIMARY KEY, "at" REAL NOT NULL, "who" VARCHAR(255) NOT
        NULL, "what" VARCHAR(255) NOT NULL, "target" VARCHAR(255) NOT NULL, "outcome" VARCHAR(255)
        NOT NULL)""",
    'CREATE INDEX "auditentry_at" ON "audit" ("at")',
)
