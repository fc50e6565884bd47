-- One role and one schema for each service, as the local stack makes them. Run once, by the
-- image, in the database that POSTGRES_DB names; passwords come from the environment.
\getenv payment_intake_password PAYMENT_INTAKE_PASSWORD
\getenv cis_poster_password CIS_POSTER_PASSWORD
\getenv autopay_scheduler_password AUTOPAY_SCHEDULER_PASSWORD
\getenv notifier_password NOTIFIER_PASSWORD
\getenv reference_cis_password REFERENCE_CIS_PASSWORD

REVOKE ALL ON DATABASE paypost FROM PUBLIC;
REVOKE ALL ON SCHEMA public FROM PUBLIC;

CREATE ROLE payment_intake LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE PASSWORD :'payment_intake_password';
GRANT CONNECT, TEMPORARY ON DATABASE paypost TO payment_intake;
CREATE SCHEMA payment_intake AUTHORIZATION payment_intake;
ALTER ROLE payment_intake IN DATABASE paypost SET search_path = payment_intake;

CREATE ROLE cis_poster LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE PASSWORD :'cis_poster_password';
GRANT CONNECT, TEMPORARY ON DATABASE paypost TO cis_poster;
CREATE SCHEMA cis_poster AUTHORIZATION cis_poster;
ALTER ROLE cis_poster IN DATABASE paypost SET search_path = cis_poster;

CREATE ROLE autopay_scheduler LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE PASSWORD :'autopay_scheduler_password';
GRANT CONNECT, TEMPORARY ON DATABASE paypost TO autopay_scheduler;
CREATE SCHEMA autopay_scheduler AUTHORIZATION autopay_scheduler;
ALTER ROLE autopay_scheduler IN DATABASE paypost SET search_path = autopay_scheduler;

CREATE ROLE notifier LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE PASSWORD :'notifier_password';
GRANT CONNECT, TEMPORARY ON DATABASE paypost TO notifier;
CREATE SCHEMA notifier AUTHORIZATION notifier;
ALTER ROLE notifier IN DATABASE paypost SET search_path = notifier;

CREATE ROLE reference_cis LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE PASSWORD :'reference_cis_password';
GRANT CONNECT, TEMPORARY ON DATABASE paypost TO reference_cis;
CREATE SCHEMA reference_cis AUTHORIZATION reference_cis;
ALTER ROLE reference_cis IN DATABASE paypost SET search_path = reference_cis;
