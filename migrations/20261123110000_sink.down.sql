DROP TABLE sink_position_mark;
DROP TABLE sink_position;
DROP TABLE sink_mark;
DROP TABLE sink_object;
DROP TABLE sink_cut;
DROP TABLE sink_range;
