;; Calls a function through its table as if it had another signature.
;; Expected: trapped, bad signature.
(module
  (memory (export "memory") 1)
  (type $f (func))
  (table funcref (elem $g))
  (func $g (param i64))
  (func (export "_start") (call_indirect (type $f) (i32.const 0))))
