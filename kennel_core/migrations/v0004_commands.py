"""What holds a pull request back, and the commands in its comments."""

SQL = (
    """ALTER TABLE "pull_requests" ADD COLUMN "skip" INTEGER NOT NULL DEFAULT 0""",
    """ALTER TABLE "pull_requests" ADD COLUMN "trusted" INTEGER""",
    """ALTER TABLE "pull_requests" ADD COLUMN "state" VARCHAR(255) NOT NULL DEFAULT 'new'""",
    """ALTER TABLE "pull_requests" ADD COLUMN "why" VARCHAR(255)""",
    """ALTER TABLE "pull_requests" ADD COLUMN "removed" TEXT""",
    """CREATE TABLE "commands" ("id" INTEGER NOT NULL PRIMARY KEY, "project_id" INTEGER NOT NULL,
        "number" INTEGER NOT NULL, "comment_id" INTEGER NOT NULL, "author" VARCHAR(255) NOT NULL, "words"
        VARCHAR(255) NOT NULL, "commit" VARCHAR(64), "at" REAL NOT NULL, "outcome" VARCHAR(255),
        "reaction" VARCHAR(255), "answer" TEXT, FOREIGN KEY ("project_id") REFERENCES "projects" ("id")
        ON DELETE CASCADE)""",
    'CREATE INDEX "command_project_id" ON "commands" ("project_id")',
    """CREATE UNIQUE INDEX "command_project_id_comment_id" ON "commands" ("project_id", "comment_id")""",
)
