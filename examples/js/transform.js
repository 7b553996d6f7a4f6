// Script form: `input` in, `output` out.
const lines = input.items.map(({ name, price, quantity }) => ({ name, total: price * quantity }));
const net = lines.reduce((sum, line) => sum + line.total, 0);

console.log(`${lines.length} lines for ${input.customer.name}`);

output = {
  customer: input.customer.name.toUpperCase(),
  lines,
  net,
  gross: Math.round(net * (1 + input.taxPercent / 100) * 100) / 100,
  portal: new URL(`/orders/${encodeURIComponent(input.id)}?lang=${input.customer.language}`, "https://shop.example").href,
};
