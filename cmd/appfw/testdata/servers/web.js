// Serves HTTP: web.js PORT. What it says is for which host it was asked.
require('http').createServer((request, response) => {
  const host = request.headers.host || '';
  response.end(host.toLowerCase().includes('shared.example') ? 'served shared.example' : 'served another host');
}).listen(Number(process.argv[2]), '0.0.0.0');
