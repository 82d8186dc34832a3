# Serves HTTP by HTTP::Daemon: daemon.pl PORT. What it says is for which host it was asked.
use HTTP::Daemon;
use HTTP::Response;
$SIG{CHLD} = 'IGNORE';
my $d = HTTP::Daemon->new(LocalAddr => '0.0.0.0', LocalPort => $ARGV[0], ReuseAddr => 1) or die;
while (my $c = $d->accept) {
    next if fork;
    while (my $r = $c->get_request) {
        my $host = lc($r->header('Host') // '');
        $c->send_response(HTTP::Response->new(200, 'OK', [], $host =~ /shared\.example/ ? 'served shared.example' : 'served another host'));
    }
    exit;
}
