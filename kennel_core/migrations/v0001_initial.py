"""The first tables: projects, builds, deployments, and what their invariants need."""

SQL = (
    """CREATE TABLE "projects" ("id" INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT, "owner" VARCHAR(255) NOT
        NULL COLLATE NOCASE, "name" VARCHAR(255) NOT NULL COLLATE NOCASE, "clone_url" VARCHAR(255) NOT
        NULL, "default_branch" VARCHAR(255) NOT NULL, "secret_generation" INTEGER NOT NULL, "created_at"
        REAL NOT NULL)""",
    'CREATE UNIQUE INDEX "project_owner_name" ON "projects" ("owner", "name")',
    """CREATE TABLE "builds" ("id" INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT, "project_id" INTEGER NOT NULL,
        "ref" VARCHAR(255) NOT NULL, "commit" VARCHAR(64) NOT NULL, "status" VARCHAR(255) NOT NULL,
        "error" TEXT, "cancel_requested" INTEGER NOT NULL, "attempt" INTEGER NOT NULL, "token"
        VARCHAR(255), "lease_until" REAL, "created_at" REAL NOT NULL, "enqueued_at" REAL, "started_at"
        REAL, "built_at" REAL, "finished_at" REAL, "outputs" TEXT, "log" TEXT, FOREIGN KEY ("project_id")
        REFERENCES "projects" ("id") ON DELETE CASCADE, CHECK (status IN ('queued', 'building', 'built',
        'done', 'failed', 'cancelled')))""",
    'CREATE INDEX "build_project_id" ON "builds" ("project_id")',
    'CREATE INDEX "build_project_id_ref_id" ON "builds" ("project_id", "ref", "id")',
    'CREATE INDEX "build_status_project_id_ref" ON "builds" ("status", "project_id", "ref")',
    """CREATE TABLE "deliveries" ("id" INTEGER NOT NULL PRIMARY KEY, "delivery_id" VARCHAR(255) NOT NULL,
        "project_id" INTEGER NOT NULL, "event" VARCHAR(255) NOT NULL, "outcome" VARCHAR(255) NOT NULL,
        "received_at" REAL NOT NULL, FOREIGN KEY ("project_id") REFERENCES "projects" ("id") ON DELETE
        CASCADE)""",
    'CREATE UNIQUE INDEX "delivery_delivery_id" ON "deliveries" ("delivery_id")',
    'CREATE INDEX "delivery_project_id" ON "deliveries" ("project_id")',
    'CREATE INDEX "delivery_received_at" ON "deliveries" ("received_at")',
    """CREATE TABLE "deployments" ("id" INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT, "project_id" INTEGER NOT
        NULL, "ref" VARCHAR(255) NOT NULL, "name" VARCHAR(255) NOT NULL, "kind" VARCHAR(255) NOT NULL,
        "environment" VARCHAR(255) NOT NULL, "build_id" INTEGER NOT NULL, "commit" VARCHAR(64) NOT NULL,
        "store_path" VARCHAR(255) NOT NULL, "config_path" VARCHAR(255) NOT NULL, "host" VARCHAR(255) NOT
        NULL, "alias_host" VARCHAR(255), "custom_domain" VARCHAR(255), "spa" INTEGER NOT NULL, "command"
        TEXT, "health" TEXT, "unit" VARCHAR(255), "port" INTEGER, "live" TEXT, "created_at" REAL NOT NULL,
        "updated_at" REAL NOT NULL, FOREIGN KEY ("project_id") REFERENCES "projects" ("id") ON DELETE
        CASCADE, FOREIGN KEY ("build_id") REFERENCES "builds" ("id"), CHECK (kind IN ('service', 'site')))""",
    'CREATE INDEX "deployment_project_id" ON "deployments" ("project_id")',
    'CREATE INDEX "deployment_build_id" ON "deployments" ("build_id")',
    'CREATE UNIQUE INDEX "deployment_host" ON "deployments" ("host")',
    'CREATE UNIQUE INDEX "deployment_alias_host" ON "deployments" ("alias_host")',
    'CREATE UNIQUE INDEX "deployment_custom_domain" ON "deployments" ("custom_domain")',
    'CREATE UNIQUE INDEX "deployment_unit" ON "deployments" ("unit")',
    'CREATE UNIQUE INDEX "deployment_port" ON "deployments" ("port")',
    'CREATE UNIQUE INDEX "deployment_project_id_ref_name" ON "deployments" ("project_id", "ref", "name")',
    """CREATE TABLE "log_chunks" ("build_id" INTEGER NOT NULL, "seq" INTEGER NOT NULL, "phase" VARCHAR(255)
        NOT NULL, "data" TEXT NOT NULL, PRIMARY KEY ("build_id", "seq"), FOREIGN KEY ("build_id")
        REFERENCES "builds" ("id") ON DELETE CASCADE) WITHOUT ROWID""",
    'CREATE INDEX "logchunk_build_id" ON "log_chunks" ("build_id")',
    """CREATE TABLE "resources" ("id" INTEGER NOT NULL PRIMARY KEY, "kind" VARCHAR(255) NOT NULL, "name"
        VARCHAR(255) NOT NULL, "port" INTEGER, "created_at" REAL NOT NULL, "unwanted_at" REAL)""",
    'CREATE UNIQUE INDEX "resource_kind_name" ON "resources" ("kind", "name")',
)
