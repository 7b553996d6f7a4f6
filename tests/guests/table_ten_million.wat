;; A table of ten million entries, which costs the host 80 MB.
;; Expected: out_of_memory before any guest code runs, under any limit below that.
(module
  (memory (export "memory") 1)
  (table 10000000 funcref)
  (func (export "_start")))
