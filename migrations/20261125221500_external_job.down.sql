DROP TABLE external_job;
