// What an integration does all day: an order in, its lines and its sums out. All that run JavaScript run this.
(order) => {
  const lines = order.lines
    .filter((line) => line.quantity > 0)
    .map((line) => ({ sku: line.sku.toUpperCase(), cents: line.quantity * line.cents }));
  const net = lines.reduce((sum, line) => sum + line.cents, 0);
  return { customer: order.customer.trim().toUpperCase(), lines, net, tax: Math.floor((net * 19) / 100) };
}
