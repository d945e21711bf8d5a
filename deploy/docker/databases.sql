-- The databases of the services, one per region for a regional service. PostgreSQL's image runs this when its volume is
-- empty; the services create their schemas.
CREATE DATABASE piepowder_intake;
CREATE DATABASE piepowder_decision_eu;
CREATE DATABASE piepowder_decision_us;
CREATE DATABASE piepowder_audit_eu;
CREATE DATABASE piepowder_audit_us;
