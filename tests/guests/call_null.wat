;; Calls through an empty entry of its table.
;; Expected: trapped, indirect call to null.
(module
  (memory (export "memory") 1)
  (type $f (func))
  (table 1 funcref)
  (func (export "_start") (call_indirect (type $f) (i32.const 0))))
