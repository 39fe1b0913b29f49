# A peer of fdbroker in Perl, with IO::FDPass, which sends and receives one descriptor with one byte.
#
# Its end of the socket is its standard input. To each descriptor and line of text it answers with a line (the text in reverse,
# device, inode, what the file says), the same descriptor, and the reading end of a pipe of its own, until the other end is
# gone; then it says so, and ends.
use strict;
use warnings;
use IO::FDPass;

alarm 60;    # Whatever happens: nobody waits for this process for ever.
$SIG{PIPE} = 'IGNORE';
my $end = 0;
open my $writer, '>&=', $end or die "open: $!";
# Of a stream no byte behind the line may be read; of packets a byte that is not read is lost.
my $most = $ARGV[0] eq 'stream' ? 1 : 65536;

while (1) {
    my $fd = receive();
    my $text = line();
    open my $file, '<&=', $fd or die "open: $!";
    my ($device, $inode) = stat $file;
    my $content = read_all($file);
    pipe my $reading, my $writing or die "pipe: $!";
    syswrite $writing, 'made by the peer';
    close $writing;
    my $answer = reverse($text) . ":$device:$inode:$content\n";
    told(syswrite $writer, $answer);
    told(IO::FDPass::send($end, $fd));
    told(IO::FDPass::send($end, fileno $reading));
}

sub receive {
    $! = 0;
    my $fd = IO::FDPass::recv($end);
    finish() if $fd < 0;
    return $fd;
}

sub line {
    my $text = '';
    until ($text =~ s/\n\z//) {
        $! = 0;
        my $length = sysread STDIN, $text, $most, length $text;
        finish() unless $length;
    }
    return $text;
}

sub read_all {
    my ($file) = @_;
    sysseek $file, 0, 0 or die "seek: $!";
    sysread $file, my $content, 100;
    return $content;
}

sub told {
    finish() unless $_[0];
}

sub finish {
    die "failed: $!" unless $! == 0 || $!{EPIPE} || $!{ECONNRESET} || $!{ECONNREFUSED};
    print "hung up\n";
    exit 0;
}
