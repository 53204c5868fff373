"""What services need of other servers: resources with their owners, and the inputs of services."""

SQL = (
    'ALTER TABLE "deployments" ADD COLUMN "resources" TEXT',
    'ALTER TABLE "deployments" ADD COLUMN "oidc" TEXT',
    'ALTER TABLE "deployments" ADD COLUMN "inputs" TEXT',
    'ALTER TABLE "resources" ADD COLUMN "project_id" INTEGER',
    'ALTER TABLE "resources" ADD COLUMN "project" VARCHAR(255)',
    'ALTER TABLE "resources" ADD COLUMN "ref" VARCHAR(255)',
    'ALTER TABLE "resources" ADD COLUMN "environment" VARCHAR(255)',
    """ALTER TABLE "resources" ADD COLUMN "state" TEXT NOT NULL DEFAULT '{}'""",
    'ALTER TABLE "resources" ADD COLUMN "made_at" REAL',
    'ALTER TABLE "resources" ADD COLUMN "confirmed_at" REAL',
    # What runs was started without any inputs.
    "UPDATE deployments SET resources = '[]'",
    """UPDATE deployments SET inputs = '{"digest":"","versions":{}}' WHERE kind = 'service'""",
    """UPDATE deployments SET live = json_set(live, '$.resources', json('[]'), '$.oidc', NULL, '$.inputs',
        json(inputs)) WHERE live IS NOT NULL""",
)
