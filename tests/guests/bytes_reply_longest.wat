;; Returns the highest address and the longest length there are.
;; Expected: trapped, memory out of bounds; nothing is allocated for it.
(module
  (memory (export "memory") 1)
  (func (export "stockade_alloc") (param i32) (result i32) (i32.const 1024))
  (func (export "handle") (param i32 i32) (result i64) (i64.const 0xffffffff_7fffffff)))
