sub { [200, ['Content-Type' => 'text/plain'], [lc($_[0]{HTTP_HOST} // '') =~ /shared\.example/ ? 'served shared.example' : 'served another host']] }
