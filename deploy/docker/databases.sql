-- One database for each service that keeps state, in each of its regions. The image of PostgreSQL runs this once, when
-- its volume is empty; the services bring the schemas themselves.
CREATE DATABASE piepowder_intake;
CREATE DATABASE piepowder_decision_eu;
CREATE DATABASE piepowder_decision_us;
CREATE DATABASE piepowder_audit_eu;
CREATE DATABASE piepowder_audit_us;
