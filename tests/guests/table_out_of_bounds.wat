;; Calls through an index its table does not have.
;; Expected: trapped, table out of bounds.
(module
  (memory (export "memory") 1)
  (type $f (func))
  (table 1 funcref)
  (func (export "_start") (call_indirect (type $f) (i32.const 9))))
