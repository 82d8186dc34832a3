run lambda { |env|
  [200, { 'content-type' => 'text/plain' }, [env['HTTP_HOST'].to_s.downcase.include?('shared.example') ? 'served shared.example' : 'served another host']]
}
