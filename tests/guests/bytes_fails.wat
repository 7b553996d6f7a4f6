;; Says that it failed, in its own words.
;; Expected: guest_error; the message is "no such luck".
(module
  (memory (export "memory") 1)
  (data (i32.const 16) "no such luck")
  (func (export "stockade_alloc") (param i32) (result i32) (i32.const 1024))
  (func (export "handle") (param i32 i32) (result i64) (i64.const 0x10_8000000c)))
