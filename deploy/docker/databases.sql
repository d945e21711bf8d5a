-- The role of the services, and its databases: one for each service, one per region for a regional service. PostgreSQL's
-- image runs this with psql when its volume is empty; the services create their schemas.
\getenv password SERVICES_PASSWORD
CREATE ROLE piepowder_services LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE PASSWORD :'password';
CREATE DATABASE piepowder_intake OWNER piepowder_services;
CREATE DATABASE piepowder_decision_eu OWNER piepowder_services;
CREATE DATABASE piepowder_decision_us OWNER piepowder_services;
CREATE DATABASE piepowder_audit_eu OWNER piepowder_services;
CREATE DATABASE piepowder_audit_us OWNER piepowder_services;
