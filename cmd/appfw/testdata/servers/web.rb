# Serves HTTP by WEBrick: web.rb PORT. What it says is for which host it was asked.
require 'webrick'
server = WEBrick::HTTPServer.new(Port: ARGV[0].to_i, BindAddress: '0.0.0.0', Logger: WEBrick::Log.new(File::NULL), AccessLog: [])
server.mount_proc('/') do |request, response|
  response.body = request.host.to_s.downcase.include?('shared.example') ? 'served shared.example' : 'served another host'
end
server.start
