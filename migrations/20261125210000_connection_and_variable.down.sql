DROP TABLE variable;
DROP TABLE connection;
