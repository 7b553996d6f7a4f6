;; Has no room for its input.
;; Expected: guest_error, for any input that is not empty.
(module
  (memory (export "memory") 1)
  (func (export "stockade_alloc") (param i32) (result i32) (i32.const 0))
  (func (export "handle") (param i32 i32) (result i64) (i64.const 0)))
