"""What the built-in stores share: which relation a schema's rows go to, and record columns as Arrow.

How every store reads the rate rule of docs/wire.md, so that one question has one answer:

- A *read* is all parts with the same (agent, boot, run, seq - part) of a relation; it is *whole* if each part
  is `complete` and all `parts` are there.
- A read's *earlier* one is the one before it in its (agent, schema, boot, generation), by t1, then run, then
  seq - part. What another boot, generation or schema has is never subtracted.
- Each row is matched by all key columns together (by `row` where there are none) with the earlier read's:

  | since | when | increases | seconds |
  | --- | --- | --- | --- |
  | load | there is no earlier read | the values | t1 - generation |
  | snapshot | the earlier read has the key, and nothing went down | the differences | t1 - its t1 |
  | reset | it has the key; a counter, or an element of an array, went down | all values | t1 - its t1 |
  | new | it has not, and was whole | the values | t1 - its t1 |
  | unknown | it has not, and was not whole; or `seconds` would not be above 0 | NULL | as above |

"no earlier read" includes one that retention has removed: the values are then what came since the load, over
the time since the load, which is true; `seconds` says so.
"""
