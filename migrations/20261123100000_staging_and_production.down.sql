-- Takes back where the rows of unfinished runs are: they can only be run anew.
DROP TABLE production_range, production_topic, production, staging;
